//! The service that requests are handed to, and what a transport's threads share.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::head;
use super::open::OpenConnections;
use super::overload::Overload;
use crate::http::meter::StatusCounts;
use crate::http::{Problem, Request, Response};
use crate::log_safe::LogSafe;
use crate::metrics::{Counter, Exposition};
use crate::threads::panic_text;

/// The limits of a transport.
#[derive(Clone, Debug)]
pub(crate) struct TransportOptions {
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_ip: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) keep_alive_timeout: Duration,
    pub(crate) max_body_bytes: usize,
}

/// The handler of requests.
pub(crate) trait Service: Send + Sync {
    fn answer(&self, request: &Request<'_>) -> Response;

    /// The response to a request that the transport refuses, with the headers that every response has.
    fn refuse(&self, request: &Request<'_>, problem: Problem) -> Response;
}

pub(super) fn write_refused(refused: &StatusCounts, out: &mut Exposition) {
    let name = "task_system_http_refused_total";
    let help = "Refused before any route, and handlers that panicked, by status.";
    out.family(name, "counter", help);
    refused.write(name, &[], out);
}

/// Writes a transport's numbers for `/metrics`.
pub(crate) type Metrics = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// A transport that runs.
pub(crate) trait RunningTransport: Send + Sync {
    fn local_addr(&self) -> SocketAddr;

    fn metrics(&self) -> Metrics;

    /// From now on each connection closes after its next response, and only connections that have
    /// been made already are accepted.
    fn stop_accepting(&self);

    /// Stops accepting, lets requests finish until `deadline`, and closes all other connections.
    /// Harmless when repeated.
    fn stop(&self, deadline: Instant);
}

/// Calls the service. A panic costs only this request.
pub(super) fn call(
    service: &dyn Service,
    refused: &StatusCounts,
    request: &Request<'_>,
) -> Response {
    let response = catch_unwind(AssertUnwindSafe(|| service.answer(request)));
    response.unwrap_or_else(|panic| {
        let text = panic_text(&*panic).to_owned();
        log::error!("A handler panicked: {}", LogSafe(&text));
        let message = "Something went wrong here; the server's log has the details";
        let problem = Problem::new(500, "internal_error", message);
        refused.count(problem.status);
        service.refuse(request, problem)
    })
}

/// Makes request ids. One cannot be guessed from another.
#[derive(Default)]
pub(super) struct RequestIds(RandomState, AtomicU64);

impl RequestIds {
    pub(super) fn next(&self) -> String {
        let number = self.1.fetch_add(1, Ordering::Relaxed);
        let hash = self.0.hash_one(number);
        // Every request has one, and `format!` would take several times as long.
        let digit = |at| b"0123456789abcdef"[(hash >> (60 - 4 * at)) as usize & 15];
        let id: [u8; 16] = std::array::from_fn(digit);
        String::from_utf8(id.to_vec()).unwrap_or_default()
    }

    /// The client's own request id, if it is valid; else a new one.
    pub(super) fn own_or_next(&self, id: Option<&str>) -> String {
        head::sane_id(id).map_or_else(|| self.next(), str::to_owned)
    }
}

/// What the threads of a transport share.
pub(super) struct Shared {
    pub(super) options: TransportOptions,
    pub(super) service: Box<dyn Service>,
    pub(super) open: OpenConnections,
    pub(super) overload: Overload,
    pub(super) stopping: AtomicBool,
    pub(super) ids: RequestIds,
    /// Responses that the transport made itself, before or instead of the service.
    pub(super) refused: StatusCounts,
    pub(super) not_accepted: Counter,
}

impl Shared {
    pub(super) fn new(
        options: TransportOptions,
        service: Box<dyn Service>,
        overload: usize,
    ) -> Shared {
        Shared {
            options,
            service,
            open: OpenConnections::default(),
            overload: Overload::new(overload),
            stopping: AtomicBool::new(false),
            ids: RequestIds::default(),
            refused: StatusCounts::default(),
            not_accepted: Counter::default(),
        }
    }

    pub(super) fn write_metrics(&self, out: &mut Exposition) {
        write_refused(&self.refused, out);
        let open = self.open.count();
        out.gauge("task_system_connections", "Open connections.", open);
        let max = self.options.max_connections;
        let help = "How many there may be.";
        out.gauge("task_system_connections_limit", help, max);
        let name = "task_system_accept_failures_total";
        let help = "Connections that could not be accepted, since files or threads were lacking.";
        out.family(name, "counter", help);
        out.sample(name, &[], self.not_accepted.value());
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}
