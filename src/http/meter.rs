//! What was answered, by route and status, and how long it took.

use std::time::Duration;

use crate::http::Method;
use crate::http::router::Router;
use crate::metrics::{Counter, Exposition, Histogram};

/// The statuses that are told apart; the last place is for all others.
const STATUSES: [u16; 22] = [
    200, 201, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 421, 422, 429, 431, 500,
    501, 503, 505,
];

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "other"];

/// From fifty microseconds to a minute, which is how long a poll may wait.
const TIMES: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 10_000_000, 60_000_000,
];

/// Answers by status.
#[derive(Debug, Default)]
pub(crate) struct StatusCounts([Counter; STATUSES.len() + 1]);

impl StatusCounts {
    pub(crate) fn count(&self, status: u16) {
        let place = STATUSES.iter().position(|&known| known == status);
        self.0[place.unwrap_or(STATUSES.len())].increment();
    }

    /// Writes those that are not zero.
    pub(crate) fn write(&self, name: &str, labels: &[(&str, &str)], out: &mut Exposition) {
        let codes = STATUSES.iter().map(u16::to_string);
        for (code, count) in codes.chain(["other".to_owned()]).zip(&self.0) {
            if count.value() > 0 {
                let with_code = [labels, &[("code", &code)]].concat();
                out.sample(name, &with_code, count.value());
            }
        }
    }
}

#[derive(Debug)]
struct RouteMeter {
    pattern: &'static str,
    answers: [StatusCounts; METHODS.len()],
    time: Histogram,
}

/// All routes', found by their number; the last is for requests that none was found for.
#[derive(Debug)]
pub(crate) struct HttpMeter(Vec<RouteMeter>);

impl HttpMeter {
    pub(crate) fn new(router: &Router) -> HttpMeter {
        let fresh = |pattern| RouteMeter {
            pattern,
            answers: Default::default(),
            time: Histogram::new(TIMES),
        };
        HttpMeter(router.patterns().chain(["none"]).map(fresh).collect())
    }

    /// Counts an answer of the route with that number.
    pub(crate) fn count(&self, route: usize, method: Method, status: u16, took: Duration) {
        let last = self.0.len() - 1;
        let meter = &self.0[route.min(last)];
        meter.answers[method as usize].count(status);
        meter.time.observe(took);
    }

    pub(crate) fn write(&self, out: &mut Exposition) {
        let name = "task_system_http_requests_total";
        out.family(
            name,
            "counter",
            "Requests answered, by route, method and status.",
        );
        for meter in &self.0 {
            for (method, counts) in METHODS.iter().zip(&meter.answers) {
                let labels = [("route", meter.pattern), ("method", method)];
                counts.write(name, &labels, out);
            }
        }
        let name = "task_system_http_request_duration_seconds";
        let help = "From a request's arrival to its answer, by route; without sending it.";
        out.family(name, "histogram", help);
        for meter in &self.0 {
            out.histogram(name, &[("route", meter.pattern)], &meter.time);
        }
    }
}
