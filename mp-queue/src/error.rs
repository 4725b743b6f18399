//! Why a value was not put, and why none was got.

use std::{fmt, io};

use mp_core::codec::{DecodeError, EncodeError};

use crate::ring::{Corrupt, GetFailure, PutFailure};

/// Makes the error of a put that waits, or of one that may give up: what they have in common, what
/// only one of them has, and what a full queue is to it. Not derived, because `T` need not be `Debug`.
macro_rules! put_error {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$own_doc:meta])* $own:ident,)? }
        $full:expr
    ) => {
        $(#[$doc])*
        #[non_exhaustive]
        pub enum $name<T> {
            $($(#[$own_doc])* $own(T),)?
            /// The queue was closed: nothing can be put any more.
            Closed(T),
            /// The value has no encoding.
            Encode(T, EncodeError),
            /// Encoded, the value is larger than this queue can ever hold.
            TooLarge(T, TooLarge),
            /// The system has no memory left for the queue to grow; what is in it is not affected.
            NoSpace(T, io::Error),
            /// The shared memory was damaged.
            Corrupt(T, Corrupt),
        }

        impl<T> $name<T> {
            #[cold]
            pub(crate) fn new(value: T, refusal: Refusal) -> Self {
                match refusal {
                    Refusal::Full => $full(value),
                    Refusal::Closed => Self::Closed(value),
                    Refusal::Encode(error) => Self::Encode(value, error),
                    Refusal::TooLarge(error) => Self::TooLarge(value, error),
                    Refusal::NoSpace(error) => Self::NoSpace(value, error),
                    Refusal::Corrupt(error) => Self::Corrupt(value, error),
                }
            }

            /// The value that was not put.
            pub fn into_value(self) -> T {
                match self {
                    $(Self::$own(value) => value,)?
                    Self::Closed(value)
                    | Self::Encode(value, _)
                    | Self::TooLarge(value, _)
                    | Self::NoSpace(value, _)
                    | Self::Corrupt(value, _) => value,
                }
            }

            /// The variant and its cause.
            fn parts(&self) -> (&'static str, Option<&dyn fmt::Display>) {
                match self {
                    $(Self::$own(_) => (stringify!($own), None),)?
                    Self::Closed(_) => ("Closed", None),
                    Self::Encode(_, error) => ("Encode", Some(error)),
                    Self::TooLarge(_, error) => ("TooLarge", Some(error)),
                    Self::NoSpace(_, error) => ("NoSpace", Some(error)),
                    Self::Corrupt(_, error) => ("Corrupt", Some(error)),
                }
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                debug(self.parts(), f)
            }
        }

        impl<T> fmt::Display for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                display(self.parts(), f)
            }
        }

        impl<T> std::error::Error for $name<T> {}
    };
}

put_error! {
    /// Why a value was not put; every variant hands it back.
    PutError {}
    // A put without a deadline waits for room as long as it takes.
    |value| Self::Corrupt(value, Corrupt("a put that waits found no room"))
}

put_error! {
    /// Why a value was not put at once, or in time; every variant hands it back.
    TryPutError {
        /// The queue is full, or stayed full until the deadline.
        Full,
    }
    Self::Full
}

/// A value that encodes to more bytes than a queue takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes encoded, and this queue takes at most {limit}: make it with a larger area")]
pub struct TooLarge {
    /// Bytes of the value, encoded.
    pub len: usize,
    /// Most bytes that one value may take.
    pub limit: usize,
}

/// Why some values of a batch were not put.
pub struct PutManyError<T> {
    /// How many were put, from the first on.
    pub put: usize,
    /// The others, in order. The first of them is the one that could not be put.
    pub rest: Vec<T>,
    /// Why it could not.
    pub cause: PutError<()>,
}

/// Makes the error of a get that waits, and of one that may give up.
macro_rules! get_error {
    (
        $(#[$doc:meta])*
        $name:ident { $($(#[$own_attribute:meta])* $own:ident,)? }
    ) => {
        $(#[$doc])*
        #[derive(Debug, thiserror::Error)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$own_attribute])* $own,)?
            /// The queue was closed, and everything in it has been taken.
            #[error("the queue is closed and drained")]
            Closed,
            /// The item was taken, but its bytes are not the encoding of a value; the next is not
            /// affected.
            #[error("an item was taken that is none of this queue's type")]
            Decode(#[source] DecodeError),
            /// The next item is larger than the memory this process can get; it is still in the
            /// queue.
            #[error("no memory for the next item of {len} bytes, which is still in the queue")]
            OutOfMemory {
                /// Bytes of the item.
                len: usize,
            },
            /// The item cannot be claimed: more than 4096 are in claiming hands, or no descriptor is
            /// left for this process to take part. It is still in the queue.
            #[error("the next item cannot be claimed, and is still in the queue: {0}")]
            Unclaimable(#[source] io::Error),
            /// The shared memory was damaged.
            #[error(transparent)]
            Corrupt(Corrupt),
        }
    };
}

get_error! {
    /// Why no value was got.
    GetError {}
}

get_error! {
    /// Why no value was got at once, or in time.
    TryGetError {
        /// The queue is empty, or stayed empty until the deadline.
        #[error("the queue is empty")]
        Empty,
    }
}

/// The same without the value, while it is still with its owner.
#[derive(Debug)]
pub(crate) enum Refusal {
    Full,
    Closed,
    Encode(EncodeError),
    TooLarge(TooLarge),
    NoSpace(io::Error),
    Corrupt(Corrupt),
}

impl From<EncodeError> for Refusal {
    fn from(error: EncodeError) -> Self {
        Self::Encode(error)
    }
}

impl From<PutFailure> for Refusal {
    fn from(failure: PutFailure) -> Self {
        match failure {
            PutFailure::Full => Self::Full,
            PutFailure::Closed => Self::Closed,
            PutFailure::TooLarge { len, limit } => Self::TooLarge(TooLarge { len, limit }),
            PutFailure::NoSpace(error) => Self::NoSpace(error),
            PutFailure::Corrupt(corrupt) => Self::Corrupt(corrupt),
        }
    }
}

/// `T` need not be `Debug`: the variant and its cause are shown, the value is not.
fn debug(
    (variant, cause): (&'static str, Option<&dyn fmt::Display>),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    match cause {
        None => write!(f, "{variant}(..)"),
        Some(cause) => write!(f, "{variant}(.., {cause})"),
    }
}

fn display(
    (variant, cause): (&'static str, Option<&dyn fmt::Display>),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    f.write_str(match variant {
        "Full" => "the queue is full",
        "Closed" => "the queue is closed: nothing can be put any more",
        "Encode" => "the value was not put: it has no encoding",
        "TooLarge" => "the value was not put: it is too large",
        "NoSpace" => "the value was not put: no memory for the queue to grow",
        _ => "the value was not put",
    })?;
    cause.map_or(Ok(()), |cause| write!(f, ": {cause}"))
}

impl<T> fmt::Debug for PutManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PutManyError")
            .field("put", &self.put)
            .field("rest", &self.rest.len())
            .field("cause", &self.cause)
            .finish()
    }
}

impl<T> fmt::Display for PutManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (put, rest) = (self.put, self.rest.len());
        write!(f, "{put} values were put, the other {rest} were not")
    }
}

impl<T> std::error::Error for PutManyError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}

impl From<GetFailure> for TryGetError {
    fn from(failure: GetFailure) -> Self {
        match failure {
            GetFailure::Empty => Self::Empty,
            GetFailure::Closed => Self::Closed,
            GetFailure::OutOfMemory { len } => Self::OutOfMemory { len },
            GetFailure::Unclaimable(error) => Self::Unclaimable(error),
            GetFailure::Corrupt(corrupt) => Self::Corrupt(corrupt),
        }
    }
}

impl From<DecodeError> for TryGetError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

/// Of a get without a deadline.
impl From<TryGetError> for GetError {
    fn from(error: TryGetError) -> Self {
        match error {
            TryGetError::Empty => Self::Corrupt(Corrupt("a get that waits found no item")),
            TryGetError::Closed => Self::Closed,
            TryGetError::Decode(error) => Self::Decode(error),
            TryGetError::OutOfMemory { len } => Self::OutOfMemory { len },
            TryGetError::Unclaimable(error) => Self::Unclaimable(error),
            TryGetError::Corrupt(corrupt) => Self::Corrupt(corrupt),
        }
    }
}

/// What fails without a deadline fails with one.
impl<T> From<PutError<T>> for TryPutError<T> {
    fn from(error: PutError<T>) -> Self {
        match error {
            PutError::Closed(value) => Self::Closed(value),
            PutError::Encode(value, error) => Self::Encode(value, error),
            PutError::TooLarge(value, error) => Self::TooLarge(value, error),
            PutError::NoSpace(value, error) => Self::NoSpace(value, error),
            PutError::Corrupt(value, error) => Self::Corrupt(value, error),
        }
    }
}

/// What fails without a deadline fails with one.
impl From<GetError> for TryGetError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Closed => Self::Closed,
            GetError::Decode(error) => Self::Decode(error),
            GetError::OutOfMemory { len } => Self::OutOfMemory { len },
            GetError::Unclaimable(error) => Self::Unclaimable(error),
            GetError::Corrupt(corrupt) => Self::Corrupt(corrupt),
        }
    }
}

impl<T> TryPutError<T> {
    /// The same error without the value, which is dropped: to pass on where its type is in the way.
    #[must_use]
    pub fn without_value(self) -> TryPutError<()> {
        match self {
            Self::Full(_) => TryPutError::Full(()),
            Self::Closed(_) => TryPutError::Closed(()),
            Self::Encode(_, error) => TryPutError::Encode((), error),
            Self::TooLarge(_, error) => TryPutError::TooLarge((), error),
            Self::NoSpace(_, error) => TryPutError::NoSpace((), error),
            Self::Corrupt(_, error) => TryPutError::Corrupt((), error),
        }
    }
}
