//! The match over verbs.

/// Routes a [`crate::Call`] by its verb; yields `Result<Vec<u8>, Fail>`.
///
/// Each arm gets the decoded request and the call, and yields `Result<V::Reply, Fail>`; other verbs are answered
/// with `UnknownVerb`. For use inside an `async` block that returns the same type, so that `?` works in arms:
///
/// ```text
/// Box::pin(async move {
///     route!(call, {
///         wire::Status => |_request, _call| self.status().await,
///         wire::Watch => |request, call| self.watch(request, call.items()).await,
///     })
/// })
/// ```
#[macro_export]
macro_rules! route {
    ($call:expr, { $($verb:ty => |$request:pat_param, $inner:pat_param| $body:expr),+ $(,)? }) => {{
        let call: $crate::Call = $call;
        match call.verb {
            $(
                <$verb as $crate::Verb>::ID => match call.request::<$verb>() {
                    Ok($request) => {
                        let $inner = call;
                        let done: ::std::result::Result<<$verb as $crate::Verb>::Reply, $crate::Fail> = $body;
                        match done {
                            Ok(done) => $crate::reply::<$verb>(&done),
                            Err(fail) => Err(fail),
                        }
                    }
                    Err(fail) => Err(fail),
                },
            )+
            _ => Err($crate::unknown_verb(&call)),
        }
    }};
}
