//! The Job API: the same executors on a database, so that what is acknowledged survives.
//!
//! An optional feature is two files with the same functions: [`enabled`] with it, `disabled`
//! without; whoever calls carries no condition.
//!
//! A job's way: request → `inserter` (requests share a commit) → database → `worker::fetcher` (claims it
//! into the pool) → `worker::run` (its place in the pool) → `worker::completer` (writes its end). `worker::claims` alone
//! knows what this process holds. `storage`, `lists` and `work` say what can be done with jobs, `sql` how, `database` on
//! which.

#[cfg(feature = "jobs")]
mod addition;
#[cfg(feature = "jobs")]
mod auth;
#[cfg(feature = "jobs")]
mod availability;
#[cfg(feature = "jobs")]
mod body;
#[cfg(feature = "jobs")]
mod clock;
#[cfg(feature = "jobs")]
mod database;
#[cfg(not(feature = "jobs"))]
mod disabled;
#[cfg(feature = "jobs")]
mod dummy;
#[cfg(feature = "jobs")]
mod enabled;
#[cfg(feature = "jobs")]
mod idempotency;
#[cfg(feature = "jobs")]
mod inserter;
#[cfg(feature = "jobs")]
mod job;
#[cfg(feature = "jobs")]
mod listen;
#[cfg(feature = "jobs")]
mod lists;
#[cfg(feature = "jobs")]
mod meter;
#[cfg(feature = "jobs")]
mod notify;
#[cfg(feature = "jobs")]
mod public_key;
#[cfg(feature = "jobs")]
mod routes;
#[cfg(feature = "jobs")]
mod sql;
#[cfg(feature = "jobs")]
mod storage;
#[cfg(feature = "jobs")]
mod watch;
#[cfg(feature = "jobs")]
mod work;
#[cfg(feature = "jobs")]
mod worker;

#[cfg(not(feature = "jobs"))]
pub(crate) use disabled::{Jobs, mistakes, register};
#[cfg(not(feature = "jobs"))]
pub use disabled::{migrate, migration_sql, token};
#[cfg(feature = "jobs")]
pub(crate) use enabled::{Jobs, mistakes, register};
#[cfg(feature = "jobs")]
pub use enabled::{migrate, migration_sql, token};

use crate::http::Problem;
use crate::http::router::{Handler, Route};

/// Where the routes are that a server without a database answers as well.
const ROUTES: [&str; 2] = ["/api/v1/jobs", "/api/v1/jobs/*"];

/// The routes, all answering that the Job API is off, and what to do `first` to have it.
fn routes_off(first: &'static str) -> Vec<Route> {
    let off = || -> Handler {
        Box::new(move |_, _| {
            let message = format!(
                "The Job API is off: {first}set STORAGE=sqlite or STORAGE=postgres, and \
                 ENABLE_QUEUE=true to run its workers here"
            );
            Err(Problem::new(503, "jobs_disabled", message))
        })
    };
    let routes = ROUTES.into_iter();
    routes
        .map(|pattern| Route::get(pattern, off()).and_post(off()))
        .collect()
}
