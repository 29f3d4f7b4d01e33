//! What a verb is: a number, a request, a reply, and for streams an item type. The number never changes
//! its meaning; both sides take types and number from here.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One verb of one service.
pub trait Verb: 'static {
    /// Its number within its service.
    const ID: u16;
    /// Its name in logs and errors.
    const NAME: &'static str;
    /// What the caller sends.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What a stream sends before its reply; [`NoItem`] for plain calls.
    type Item: Serialize + DeserializeOwned + Send + 'static;
    /// What ends the call.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// Item type of verbs that are no streams: it has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum NoItem {}

/// Declares the verbs of a service: `verbs! { 1 Name(Request) as Reply; 2 Other(Request) => Item as Reply; }`.
#[macro_export]
macro_rules! verbs {
    ($($(#[$doc:meta])* $id:literal $name:ident($request:ty) $(=> $item:ty)? as $reply:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy)]
            pub struct $name;

            impl $crate::verb::Verb for $name {
                const ID: u16 = $id;
                const NAME: &'static str = stringify!($name);
                type Request = $request;
                type Item = $crate::verbs!(@item $($item)?);
                type Reply = $reply;
            }
        )+

        /// The verbs of this service: (number, name).
        pub const VERBS: &[(u16, &str)] = &[$(($id, stringify!($name))),+];
    };
    (@item) => { $crate::verb::NoItem };
    (@item $item:ty) => { $item };
}
