//! The Job API runs the same executors on a database, so that acknowledged jobs survive the process.
//!
//! The optional feature has two files with the same functions: [`enabled`] with it, `disabled` without it. Callers
//! therefore need no `cfg`.
//!
//! The way of a job: `api` reads the request; `inserter` lets requests share a commit; `worker::fetcher` claims the
//! job for the pool; `worker::run` is its attempt there; `worker::completer` writes its result. Only `worker::claims`
//! knows what this process holds. `storage` has the operations on jobs and their SQL; `database` runs it on SQLite or
//! PostgreSQL; `notify` notifies other processes and streams. The routes work on `system`, and `enabled` assembles
//! all of it.

#[cfg(feature = "jobs")]
mod api;
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
mod entry;
#[cfg(feature = "jobs")]
mod inserter;
#[cfg(feature = "jobs")]
mod job;
#[cfg(feature = "jobs")]
mod meter;
#[cfg(feature = "jobs")]
mod notify;
#[cfg(feature = "jobs")]
mod storage;
#[cfg(feature = "jobs")]
mod system;
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

use crate::field_error::FieldError;
use crate::http::Problem;
use crate::http::router::{Handler, Route};

/// The routes that a server without a database also has.
const ROUTES: [&str; 2] = ["/api/v1/jobs", "/api/v1/jobs/*"];

/// What turns the Job API on.
const HOW: &str =
    "set STORAGE=sqlite or STORAGE=postgres, and ENABLE_QUEUE=true to run its workers here";

/// Work that its worker has brought cannot be a job here. `first` is an additional step to make that possible.
fn no_job_of_a_user(first: &str) -> Problem {
    let message = format!("user needs workers of the Job API in this process: {first}{HOW}");
    Problem::invalid(vec![FieldError::new("user", message)])
}

/// All routes answer that the Job API is off. `first` is an additional step to turn it on.
fn routes_off(first: &'static str) -> Vec<Route> {
    let off = || -> Handler {
        Box::new(move |_, _| {
            let message = format!("The Job API is off: {first}{HOW}");
            Err(Problem::new(503, "jobs_disabled", message))
        })
    };
    let routes = ROUTES.into_iter();
    routes
        .map(|pattern| Route::get(pattern, off()).and_post(off()).with_query())
        .collect()
}
