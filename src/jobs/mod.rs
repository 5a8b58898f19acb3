//! The Job API: the same executors on a database, so that what is acknowledged survives.
//!
//! An optional feature is two files with the same functions: [`enabled`] with it, `disabled`
//! without; whoever calls carries no condition.
//!
//! A job's way: request → `intake` (requests share a commit) → database → `dispatcher` (claims it
//! into the pool) → `run` (its place in the pool) → `scribe` (keeps its lease, writes its end).
//! `queue` starts and stops these two, `desk` is what they share. `storage` says what can be done
//! with jobs, `sql` how, `database` on which.

#[cfg(feature = "jobs")]
mod addition;
#[cfg(feature = "jobs")]
mod auth;
#[cfg(feature = "jobs")]
mod body;
#[cfg(feature = "jobs")]
mod database;
#[cfg(feature = "jobs")]
mod desk;
#[cfg(not(feature = "jobs"))]
mod disabled;
#[cfg(feature = "jobs")]
mod dispatcher;
#[cfg(feature = "jobs")]
mod dummy;
#[cfg(feature = "jobs")]
mod enabled;
#[cfg(feature = "jobs")]
mod intake;
#[cfg(feature = "jobs")]
mod job;
#[cfg(feature = "jobs")]
mod listen;
#[cfg(feature = "jobs")]
mod meter;
#[cfg(feature = "jobs")]
mod outage;
#[cfg(feature = "jobs")]
mod queue;
#[cfg(feature = "jobs")]
mod receipts;
#[cfg(feature = "jobs")]
mod routes;
#[cfg(feature = "jobs")]
mod run;
#[cfg(feature = "jobs")]
mod scribe;
#[cfg(feature = "jobs")]
mod sql;
#[cfg(feature = "jobs")]
mod storage;
#[cfg(feature = "jobs")]
mod watch;

#[cfg(not(feature = "jobs"))]
pub use disabled::token;
#[cfg(not(feature = "jobs"))]
pub(crate) use disabled::{Jobs, check, register};
#[cfg(feature = "jobs")]
pub use enabled::token;
#[cfg(feature = "jobs")]
pub(crate) use enabled::{Jobs, check, register};

use crate::config::Config;
use crate::http::Problem;
use crate::http::router::{Handler, Route};

/// Where the routes are that a server without a database answers as well.
const ROUTES: [&str; 2] = ["/api/v1/jobs", "/api/v1/jobs/*"];

/// For who asked for workers, and has no database for them.
fn warn_where_no_job_runs(config: &Config) {
    if config.enable_queue {
        log::warn!("ENABLE_QUEUE=true does nothing without STORAGE=sqlite or postgres");
    }
}

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
