//! The Job API's place: without a database its routes say how to get one.

use crate::http::Problem;
use crate::http::router::Route;

/// The routes, all answering that the Job API is off.
pub(crate) fn routes() -> Vec<Route> {
    let off = || -> crate::http::router::Handler {
        Box::new(|_, _| {
            let message = "The Job API is off: set STORAGE=sqlite or STORAGE=postgres, and \
                           ENABLE_QUEUE=true to run its workers here";
            Err(Problem::new(503, "jobs_disabled", message))
        })
    };
    ["/api/v1/jobs", "/api/v1/jobs/*"]
        .into_iter()
        .map(|pattern| Route::get(pattern, off()).and_post(off()))
        .collect()
}
