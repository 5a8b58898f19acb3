//! The client and the request that caused the changes that this thread makes now.
//!
//! The store tells its observer of a change on the thread that made it. So the audit log learns
//! who asked, and neither store nor engine knows of requests.

use std::cell::RefCell;
use std::net::IpAddr;

/// The request behind a change.
#[derive(Clone)]
pub(crate) struct Actor {
    /// The client's address, as sessions see it.
    pub(crate) client: Option<IpAddr>,
    /// The value of `X-Request-Id`.
    pub(crate) request_id: Box<str>,
}

thread_local! {
    static CURRENT: RefCell<Option<Actor>> = const { RefCell::new(None) };
}

/// Removes the actor, even if a handler panics.
struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Does something on behalf of `actor`.
pub(crate) fn during<R>(actor: Actor, act: impl FnOnce() -> R) -> R {
    CURRENT.set(Some(actor));
    let _forget = Forget;
    act()
}

/// The actor of this thread; `None` on the threads of workers and services.
pub(crate) fn current() -> Option<Actor> {
    CURRENT.with_borrow(Clone::clone)
}
