//! `/metrics`: what is counted, for Prometheus.
//!
//! A new part of the system adds its numbers with [`Api::report`].

use std::time::{SystemTime, UNIX_EPOCH};

use super::call::Api;
use crate::http::router::Answer;
use crate::http::{Problem, Request, Response};
use crate::metrics::Exposition;
use crate::task::TaskStatus;

pub(super) fn show(api: &Api, _: &Request<'_>, _: &str) -> Answer {
    let Some(http) = api.http_meter.get() else {
        let message = "Metrics are off: start the server with METRICS=true";
        return Err(Problem::new(404, "metrics_disabled", message));
    };
    let mut out = Exposition::default();
    process(api, &mut out);
    tasks(api, &mut out);
    let sources = api.sources.lock().clone();
    for source in sources {
        source(&mut out);
    }
    http.write(&mut out);
    Ok(Response::bytes(Exposition::CONTENT_TYPE, out.into_text()))
}

fn process(api: &Api, out: &mut Exposition) {
    let name = "task_system_info";
    out.family(name, "gauge", "Always 1; the label tells the version.");
    out.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let started = SystemTime::now()
        .checked_sub(api.started.elapsed())
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let started = started.unwrap_or_default().as_secs();
    let help = "When the server was started, in seconds since 1970.";
    out.gauge("process_start_time_seconds", help, started);
    let help = "Open event streams and terminals.";
    out.gauge("task_system_streams", help, api.streams.taken());
    let help = "How many there may be.";
    out.gauge("task_system_streams_limit", help, api.streams.max());
}

fn tasks(api: &Api, out: &mut Exposition) {
    let execution = api.system.execution();
    let tasks = execution.tasks();
    if let Some(meter) = tasks.meter() {
        let kinds = meter.kinds();
        let name = "task_system_tasks";
        out.family(name, "gauge", "Tasks in the store, by type and status.");
        for (kind, counts) in kinds.names().zip(tasks.count_by_type(&kinds)) {
            for status in TaskStatus::ALL {
                let labels = [("type", kind), ("status", status.as_str())];
                out.sample(name, &labels, counts[status as usize]);
            }
        }
        meter.write(name, out);
    }
    execution.pool().remote().write(out);
    let (active, max) = execution.active();
    let help = "Tasks that are queued or running.";
    out.gauge("task_system_active_tasks", help, active);
    let help = "How many there may be.";
    out.gauge("task_system_active_tasks_limit", help, max);
    execution.stats().write("task_system", out);
    out.gauge("task_system_sessions", "Sessions.", tasks.session_count());
    let max = tasks.limits().max_sessions;
    out.gauge("task_system_sessions_limit", help, max);
    let help = "Bytes that tasks and their history are charged.";
    out.gauge("task_system_store_bytes", help, tasks.bytes());
    let help = "How many there may be.";
    let max = tasks.limits().max_store_bytes;
    out.gauge("task_system_store_limit_bytes", help, max);
}
