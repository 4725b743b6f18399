//! Users' own types.

/// Makes a managed type of a trait: what the server does, and a proxy to ask for it.
///
/// `trait NAME => PROXY` declares the trait `NAME`, for the type that lives in the server, and the
/// struct `PROXY`, for its clients, with the same methods; each of them gives a `Result` with a
/// [`CallError`](crate::CallError) beside what the trait's method gives. Arguments and results are
/// anything that serde knows, and proxies. The methods take `&self`, as several clients may call
/// at once, each in a thread of its own.
///
/// `PROXY` has two functions more: `register(registry, constructor)`, and `referent(value)`, for a
/// [`Registry::register`](crate::Registry::register) by hand.
///
/// # Examples
///
/// ```
/// use std::sync::Mutex;
///
/// use mp_manager::{Client, List, Manager, managed};
///
/// managed! {
///     /// An account of pocket money.
///     pub trait Account => AccountProxy {
///         /// Adds `amount`; the new balance.
///         fn deposit(&self, amount: u64) -> u64;
///         /// Takes `amount`, if there is as much.
///         fn withdraw(&self, amount: u64) -> Result<u64, String>;
///         /// Everything so far: an object of its own.
///         fn history(&self) -> List<i64>;
///     }
/// }
///
/// struct Purse {
///     balance: Mutex<u64>,
///     history: List<i64>,
/// }
///
/// impl Account for Purse {
///     fn deposit(&self, amount: u64) -> u64 {
///         let mut balance = self.balance.lock().unwrap();
///         *balance += amount;
///         self.history.push(amount as i64).unwrap();
///         *balance
///     }
///
///     fn withdraw(&self, amount: u64) -> Result<u64, String> {
///         let mut balance = self.balance.lock().unwrap();
///         *balance = balance.checked_sub(amount).ok_or("not that much")?;
///         self.history.push(-(amount as i64)).unwrap();
///         Ok(*balance)
///     }
///
///     fn history(&self) -> List<i64> {
///         self.history.clone()
///     }
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     mp_process::init();
///     let manager = Manager::builder()
///         .setup(|registry| {
///             AccountProxy::register(registry, |(balance,): (u64,)| Purse {
///                 balance: Mutex::new(balance),
///                 history: Client::here().unwrap().list().unwrap(),
///             });
///         })
///         .start()?;
///     let account: AccountProxy = manager.create(&(10_u64,))?;
///     assert_eq!(account.deposit(5)?, 15);
///     assert_eq!(account.withdraw(20)?, Err("not that much".to_owned()));
///     assert_eq!(account.history()?.to_vec()?, [5]);
///     Ok(())
/// }
/// ```
#[macro_export]
macro_rules! managed {
    (
        $(#[$trait_attr:meta])*
        $vis:vis trait $Trait:ident => $Proxy:ident {
            $(
                $(#[$attr:meta])*
                fn $method:ident(&self $(, $arg:ident: $type:ty)* $(,)?) $(-> $result:ty)?;
            )*
        }
    ) => {
        $(#[$trait_attr])*
        $vis trait $Trait: ::core::marker::Send + ::core::marker::Sync + 'static {
            $(
                $(#[$attr])*
                fn $method(&self $(, $arg: $type)*) $(-> $result)?;
            )*
        }

        #[doc = concat!("A proxy to a [`", stringify!($Trait), "`] in a server.")]
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        $vis struct $Proxy($crate::Proxy);

        const _: () = {
            /// The server's half.
            struct Referent<T>(T);

            impl<T: $Trait> $crate::Referent for Referent<T> {
                #[allow(unused_parens, reason = "a method may have one argument")]
                fn call(&self, call: &mut $crate::Call<'_>) -> ::core::result::Result<(), $crate::Fault> {
                    match call.method() {
                        $(
                            stringify!($method) => {
                                const TEXT: &str = $crate::__declaration!($method($($type),*) $($result)?);
                                let ($($arg,)*): ($($type,)*) =
                                    call.checked_args($crate::__private::signature(TEXT), TEXT)?;
                                let result = <T as $Trait>::$method(&self.0 $(, $arg)*);
                                call.reply(&result)
                            }
                        )*
                        _ => Err(call.unknown()),
                    }
                }
            }

            #[allow(dead_code, reason = "not every program is both server and client")]
            impl $Proxy {
                $(
                    $(#[$attr])*
                    ///
                    /// # Errors
                    ///
                    /// The call failed.
                    $vis fn $method(&self $(, $arg: $type)*)
                        -> ::core::result::Result<$crate::__result!($($result)?), $crate::CallError>
                    {
                        const SIGNATURE: u32 = $crate::__private::signature(
                            $crate::__declaration!($method($($type),*) $($result)?)
                        );
                        self.0.call_checked(stringify!($method), SIGNATURE, &($($arg,)*))
                    }
                )*

                /// Registers the type with a server: `make` gets the tuple of arguments that
                /// `Client::create` is given.
                $vis fn register<A, T>(
                    registry: &mut $crate::Registry,
                    make: impl ::core::ops::Fn(A) -> T
                        + ::core::marker::Send + ::core::marker::Sync + 'static,
                )
                where
                    A: $crate::__private::DeserializeOwned,
                    T: $Trait,
                {
                    registry.register(
                        <Self as $crate::Managed>::KIND,
                        move |args: A| Referent(make(args)),
                    );
                }

                /// What a server calls for `value`.
                $vis fn referent(value: impl $Trait) -> impl $crate::Referent {
                    Referent(value)
                }
            }
        };

        impl $crate::Managed for $Proxy {
            const KIND: &'static str = stringify!($Trait);

            fn from_proxy(proxy: $crate::Proxy) -> Self {
                Self(proxy)
            }

            fn proxy(&self) -> &$crate::Proxy {
                &self.0
            }
        }

        impl $crate::__private::Serialize for $Proxy {
            fn serialize<S: $crate::__private::Serializer>(
                &self,
                serializer: S,
            ) -> ::core::result::Result<S::Ok, S::Error> {
                $crate::__private::Serialize::serialize(&self.0, serializer)
            }
        }

        impl<'de> $crate::__private::Deserialize<'de> for $Proxy {
            fn deserialize<D: $crate::__private::Deserializer<'de>>(
                deserializer: D,
            ) -> ::core::result::Result<Self, D::Error> {
                $crate::__private::deserialize_proxy(deserializer)
            }
        }
    };
}

/// A method's declaration as a text, the same on both sides.
#[doc(hidden)]
#[macro_export]
macro_rules! __declaration {
    ($method:ident($($type:ty),*)) => {
        concat!(stringify!($method), "(", $(stringify!($type), ", ",)* ")")
    };
    ($method:ident($($type:ty),*) $result:ty) => {
        concat!(stringify!($method), "(", $(stringify!($type), ", ",)* ") -> ", stringify!($result))
    };
}

/// What a method gives.
#[doc(hidden)]
#[macro_export]
macro_rules! __result {
    () => {
        ()
    };
    ($result:ty) => {
        $result
    };
}
