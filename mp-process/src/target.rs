//! What a child can run, and how a function is named to a process of the same executable.
//!
//! A function travels as the offset of a constant in the image: a descriptor with a magic number,
//! the type of the function pointer, the name of the function, and the pointer itself. Whoever
//! receives an offset checks that it lies in the image, then the magic number, the type and the
//! name, and only then believes the pointer.
#![allow(unsafe_code)] // reads the descriptor at an offset that was checked

use std::{
    any::{TypeId, type_name},
    marker::PhantomData,
    mem::transmute_copy,
    ptr::NonNull,
};

use serde::{Deserialize, Serialize};

use crate::image::{self, Image};

/// What can run in a child process, with `A` as its arguments: a function, or a closure that
/// captures nothing.
///
/// `A` is the tuple of the arguments, so a function of two parameters is a `Target<(A, B)>`. It is
/// implemented for all functions of up to twelve parameters; there is nothing to implement by hand.
/// To run a method of a type of one's own, see [`Run`](crate::Run).
///
/// What a closure captures would have to travel to the child, and only values with a serde
/// implementation can. A closure that captures is therefore refused by the compiler; where what it holds
/// is `Copy`, by `cargo build` and not yet by `cargo check`:
///
/// ```compile_fail
/// let factor = 3;
/// mp_process::Process::new(move |n: u64| n * factor, (2,));
/// ```
///
/// Pass the value as an argument instead:
///
/// ```
/// let factor = 3;
/// mp_process::Process::new(|n: u64, factor: u64| n * factor, (2, factor));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot run in another process with the arguments `{A}`",
    label = "not a function of these arguments, or a closure that captures",
    note = "a target is a `fn` or a closure that captures nothing; its arguments are one tuple: `(a, b)`, `(a,)`, `()`",
    note = "what a closure would capture is passed as an argument instead; a closure that captures runs under `Process::fork`, and in no pool"
)]
pub trait Target<A>: Copy + 'static {
    /// What the function returns.
    type Output;

    /// Calls the function.
    fn call(self, args: A) -> Self::Output;
}

macro_rules! target {
    ($($arg:ident)*) => {
        #[diagnostic::do_not_recommend]
        impl<F, R, $($arg),*> Target<($($arg,)*)> for F
        where
            F: Fn($($arg),*) -> R + Copy + 'static,
        {
            type Output = R;

            #[allow(non_snake_case, reason = "the names of the types")]
            fn call(self, ($($arg,)*): ($($arg,)*)) -> R {
                self($($arg),*)
            }
        }
    };
}

target!();
target!(A1);
target!(A1 A2);
target!(A1 A2 A3);
target!(A1 A2 A3 A4);
target!(A1 A2 A3 A4 A5);
target!(A1 A2 A3 A4 A5 A6);
target!(A1 A2 A3 A4 A5 A6 A7);
target!(A1 A2 A3 A4 A5 A6 A7 A8);
target!(A1 A2 A3 A4 A5 A6 A7 A8 A9);
target!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10);
target!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11);
target!(A1 A2 A3 A4 A5 A6 A7 A8 A9 A10 A11 A12);

/// Refuses, when the program is built, a target that holds data.
pub const fn assert_captures_nothing<F>() {
    assert!(
        size_of::<F>() == 0,
        "this closure captures variables (or is a function pointer), and what it holds cannot \
         travel to another process: pass the values as arguments, in the tuple beside the \
         function, or start this closure with `Process::fork`; in a pool, pass them by `starmap`, \
         or once by `share`"
    );
}

/// Another `F`, in the process that knows it only by its type.
///
/// Only called from code that an `F` in another process of this image led to.
pub(crate) fn conjure<F: Copy + 'static>() -> F {
    const { assert_captures_nothing::<F>() };
    // SAFETY:
    // * `F` has no size, so there is nothing to read; the pointer is aligned and not null.
    // * It is `Copy`, and a value of it exists in the process that named this code: this is a copy.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Calls an `F` in a process that knows it only by its type.
///
/// For the functions of an [`Entry`] whose type names `F`: there an `F` of the process that sent the
/// address led here.
#[doc(hidden)]
pub fn call_by_type<F: Target<A>, A>(args: A) -> F::Output {
    conjure::<F>().call(args)
}

/// A function of this program that other processes of the same executable can be told to call.
///
/// For crates that bring a way of calling of their own (a pool's tasks): the type that implements
/// it stands for the function, [`Address::of`] names it, and [`Address::resolve`] finds it again.
///
/// ```
/// use mp_process::target::{Address, Entry};
///
/// struct Double;
/// impl Entry for Double {
///     type Call = fn(u32) -> u32;
///     const CALL: fn(u32) -> u32 = |n| 2 * n;
/// }
///
/// let address = Address::of::<Double>()?;
/// assert_eq!((address.resolve::<fn(u32) -> u32>()?)(21), 42);
/// assert!(address.resolve::<fn(u64) -> u64>().is_err(), "another kind of function");
/// # Ok::<(), mp_process::target::AddressError>(())
/// ```
pub trait Entry: 'static {
    /// A function pointer type.
    type Call: Copy + 'static;
    /// The function.
    const CALL: Self::Call;
}

/// Where the [descriptor](self) of a function lies in the executable.
///
/// It may only be sent over private channels between processes that were started from the same
/// image: what arrives from anywhere else must never be decoded as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    offset: u64,
    /// Hash of the name, to notice an offset of another build.
    name: u64,
}

/// Why a function cannot be named to another process, or not be found there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The function is not part of the main executable.
    #[error(
        "`{name}` is not in the main executable but in a shared library, which a child process \
         may load elsewhere or not at all; call it through a function of the executable"
    )]
    OutsideImage {
        /// The name of the function.
        name: &'static str,
    },
    /// It is a closure that captures, and so more than a function.
    #[error(
        "`{name}` captures variables, so it can only be started by `StartMethod::Fork`; or pass \
         what it captures as arguments to `Process::new`"
    )]
    Captures {
        /// The name of the closure.
        name: &'static str,
    },
    /// Nothing at this address is a function that was named.
    #[error("no function of this executable has that address: it comes from another build")]
    Unknown,
}

/// In the image's read-only data, one for each [`Entry`] that is used.
#[repr(C)]
struct Descriptor {
    magic: [u64; 2],
    call_type: TypeId,
    name: fn() -> &'static str,
    call: unsafe fn(),
}

/// Any 16 bytes that no other data is likely to hold.
const MAGIC: [u64; 2] = [0x6d70_7472_6765_7401, 0x9d3c_52e1_b80f_a76b];

struct Describe<E>(PhantomData<E>);

impl<E: Entry> Describe<E> {
    /// A reference to a constant, which the compiler puts into read-only data.
    const DESCRIPTOR: &'static Descriptor = &Descriptor {
        magic: MAGIC,
        call_type: TypeId::of::<E::Call>(),
        name: type_name::<E>,
        call: const {
            assert!(
                size_of::<E::Call>() == size_of::<unsafe fn()>(),
                "`Entry::Call` has to be a function pointer"
            );
            // SAFETY: both have the size of a function pointer; it is turned back before a call.
            unsafe { transmute_copy::<E::Call, unsafe fn()>(&E::CALL) }
        },
    };
}

impl Address {
    /// The address of `E` in this image.
    ///
    /// # Errors
    ///
    /// [`AddressError::OutsideImage`]
    pub fn of<E: Entry>() -> Result<Self, AddressError> {
        let descriptor = Describe::<E>::DESCRIPTOR;
        let name = type_name::<E>();
        let offset = Image::main()
            .offset_of(
                std::ptr::from_ref(descriptor) as usize,
                size_of::<Descriptor>(),
            )
            .ok_or(AddressError::OutsideImage { name })?;
        Ok(Self {
            offset,
            name: image::hash(name.as_bytes()),
        })
    }

    /// The function at this address, which has to be a `C`.
    ///
    /// # Errors
    ///
    /// [`AddressError::Unknown`]
    pub fn resolve<C: Copy + 'static>(self) -> Result<C, AddressError> {
        let address = Image::main()
            .address_of(self.offset, size_of::<Descriptor>())
            .filter(|address| address.is_multiple_of(align_of::<Descriptor>()))
            .ok_or(AddressError::Unknown)?;
        // SAFETY: `address_of` checked that these bytes are mapped from the executable.
        let magic = unsafe { (address as *const [u64; 2]).read() };
        if magic != MAGIC {
            return Err(AddressError::Unknown);
        }
        // SAFETY: only descriptors begin with this magic number, and they are never written.
        let descriptor = unsafe { &*(address as *const Descriptor) };
        let known = descriptor.call_type == TypeId::of::<C>()
            && image::hash((descriptor.name)().as_bytes()) == self.name;
        if !known {
            return Err(AddressError::Unknown);
        }
        // SAFETY: the type of the pointer is the one that the descriptor was made with.
        Ok(unsafe { transmute_copy::<unsafe fn(), C>(&descriptor.call) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Add;
    impl Entry for Add {
        type Call = fn(u32, u32) -> u32;
        const CALL: Self::Call = |a, b| a + b;
    }

    #[test]
    fn an_address_leads_back_to_its_function() {
        let address = Address::of::<Add>().unwrap();
        assert_eq!(
            (address.resolve::<fn(u32, u32) -> u32>().unwrap())(40, 2),
            42
        );
    }

    #[test]
    fn wrong_types_names_and_offsets_are_refused() {
        let address = Address::of::<Add>().unwrap();
        assert!(address.resolve::<fn(u64, u64) -> u64>().is_err());
        let Address { offset, name } = address;
        for wrong in [
            Address {
                offset,
                name: name ^ 1,
            },
            Address {
                offset: offset + 8,
                name,
            },
            Address {
                offset: offset + 1,
                name,
            },
            Address { offset: 0, name },
            Address {
                offset: u64::MAX,
                name,
            },
        ] {
            assert!(wrong.resolve::<fn(u32, u32) -> u32>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn functions_and_closures_without_captures_are_targets() {
        fn twice(n: u32) -> u32 {
            2 * n
        }
        fn conjured<A, F: Target<A>>(_: F, args: A) -> F::Output {
            conjure::<F>().call(args)
        }
        assert_eq!(conjured(twice, (21,)), 42);
        assert_eq!(conjured(|a: u32, b: u32| a - b, (50, 8)), 42);
    }
}
