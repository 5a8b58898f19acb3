//! The Job API in a build without the feature `jobs`.

use std::io;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::TaskExecutionService;
use crate::engine::remote::Claimed;
use crate::executor::ExecutorRegistry;
use crate::http::Problem;
use crate::http::router::Route;
use crate::metrics::Exposition;
use crate::semaphore::Semaphore;
use crate::store::NewTask;

const MISSING: &str = "this build has no Job API; build it with --features jobs";

/// What turns the Job API on, before anything else.
const FIRST: &str = "build with --features jobs, ";

/// A Job API without routes that work.
pub(crate) struct Jobs;

pub(crate) fn register(_: &mut ExecutorRegistry) {}

impl Jobs {
    pub(crate) fn start(_: &Config, _: &TaskExecutionService) -> io::Result<Jobs> {
        Ok(Jobs)
    }

    pub(crate) fn routes(&self, _: &Semaphore) -> Vec<Route> {
        super::routes_off(FIRST)
    }

    pub(crate) fn metrics(&self) -> impl Fn(&mut Exposition) + Send + Sync + 'static {
        |_| {}
    }

    pub(crate) fn ailment(&self) -> impl Fn() -> Option<Problem> + Send + Sync + 'static {
        || None
    }

    pub(crate) fn adopter(
        &self,
    ) -> impl Fn(&str, NewTask) -> Result<Claimed, Problem> + Send + Sync + 'static {
        |_, _| Err(super::no_job_of_a_user(FIRST))
    }

    pub(crate) fn note_types(&self) {}

    pub(crate) fn close(&self) {}

    pub(crate) fn stop(&self, _: Instant) {}
}

/// A build without the Job API has no mistakes in its configuration.
pub(crate) fn mistakes(_: &Config) -> Vec<String> {
    Vec::new()
}

/// Issues a token for tests of the Job API, which this build does not have.
///
/// ```
/// use async_task_system::{Config, token};
/// use std::time::Duration;
///
/// let told = token(&Config::default(), "me", None, Duration::from_secs(60));
/// # #[cfg(not(feature = "jobs"))]
/// assert!(told.is_err_and(|why| why.contains("--features jobs")));
/// ```
///
/// # Errors
///
/// Always: the message says how to build with the Job API.
pub fn token(_: &Config, _: &str, _: Option<&str>, _: Duration) -> Result<String, String> {
    Err(MISSING.to_owned())
}

/// Brings the tables of the Job API up to date, which this build does not have.
///
/// ```
/// let told = async_task_system::migrate(&Default::default());
/// # #[cfg(not(feature = "jobs"))]
/// assert!(told.is_err_and(|why| why.contains("--features jobs")));
/// ```
///
/// # Errors
///
/// Always: the message says how to build with the Job API.
pub fn migrate(_: &Config) -> Result<Vec<String>, String> {
    Err(MISSING.to_owned())
}

/// The SQL that [`migrate`] would run.
///
/// ```
/// let told = async_task_system::migration_sql(&Default::default());
/// # #[cfg(not(feature = "jobs"))]
/// assert!(told.is_err_and(|why| why.contains("--features jobs")));
/// ```
///
/// # Errors
///
/// As [`migrate`].
pub fn migration_sql(_: &Config) -> Result<String, String> {
    Err(MISSING.to_owned())
}
