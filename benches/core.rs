//! What the core costs, without HTTP: `cargo bench`, or `cargo bench --bench core -- 1000` for one size.
//!
//! Each figure is the median of many short samples, in the same session, whose number of tasks heads the column. A
//! plain `main`: a million tasks are made once and every operation is tried on them, which sampling harnesses that set up
//! anew for each function cannot do in minutes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use async_task_system::engine::EngineOptions;
use async_task_system::store::{Limits, SessionUpdate, SessionWatch};
use async_task_system::{
    ExecutorRegistry, ListQuery, NewTask, Outcome, SessionKey, TaskContext, TaskExecutionService,
    TaskId, TaskManager, TaskStatus,
};

/// Reports that one task makes, each of a new percent.
const REPORTS: u8 = 100;

/// Lines that one task logs: more than are kept.
const LINES: u32 = 10_000;

/// Watchers that each report is told to.
const WATCHERS: usize = 100;

struct Row {
    name: &'static str,
    /// Nanoseconds an operation, one for each size.
    figures: Vec<f64>,
}

fn main() {
    let chosen: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let sizes = match chosen.as_slice() {
        [] => &[1_000, 100_000, 1_000_000],
        chosen => chosen,
    };
    let mut rows: Vec<Row> = Vec::new();
    for &size in sizes {
        for (name, nanos) in measure(size) {
            match rows.iter_mut().find(|row| row.name == name) {
                Some(row) => row.figures.push(nanos),
                None => rows.push(Row {
                    name,
                    figures: vec![nanos],
                }),
            }
        }
    }
    print(sizes, &rows);
}

fn print(sizes: &[usize], rows: &[Row]) {
    let heads: String = sizes.iter().map(|n| format!(" {n} tasks |")).collect();
    println!("| |{heads}\n|---|{}", "--:|".repeat(sizes.len()));
    for row in rows {
        let figures = row.figures.iter().map(|n| format!(" {} |", readable(*n)));
        println!("| {} |{}", row.name, figures.collect::<String>());
    }
}

fn readable(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.2} µs", n / 1e3),
        n => format!("{:.2} ms", n / 1e6),
    }
}

/// Every operation, in a session of so many tasks.
fn measure(size: usize) -> Vec<(&'static str, f64)> {
    let session = SessionKey::parse("bench").expect("a valid key");
    let mut limits = Limits::default();
    limits.max_tasks_per_session = usize::MAX;
    limits.max_store_bytes = usize::MAX >> 1;
    let tasks = TaskManager::new(limits, None);
    let execution = engine(tasks.clone());
    let ids: Vec<TaskId> = (0..size)
        .map(|i| {
            let kind = if i % 1_000 == 0 { "rare" } else { "common" };
            let new = NewTask::new("bench").kind(kind);
            tasks.create(&session, new).expect("there is room").id
        })
        .collect();

    let mut next = spread(size);
    let page = |query: &ListQuery| {
        let page = tasks.list(&session, query, |task| task.progress);
        black_box(page.total);
    };
    let newest = ListQuery::default();
    let from_middle = ListQuery::default().cursor(ids[size / 2]);
    let pending = ListQuery::default().statuses([TaskStatus::Pending]);
    let rare = ListQuery::default().kind("rare");
    // A scan looks at every task: fewer samples where there are many.
    let scans = (2_000_000 / size).clamp(5, 200);

    let read = median(200, 100, || {
        let read = tasks.inspect(&session, ids[next()], |task| task.progress);
        black_box(read.expect("it is there"));
    });
    let stats = median(200, 100, || {
        black_box(tasks.stats(&session).total);
    });
    // Few, so that the size stays what the column says.
    let create = median(50, 10, || {
        let task = tasks.create(&session, NewTask::new("bench"));
        black_box(task.expect("there is room").id);
    });
    let figures = vec![
        ("create a task", create),
        ("read a task", read),
        ("count by status", stats),
        ("list the newest 100", median(100, 5, || page(&newest))),
        (
            "list 100 from the middle",
            median(100, 5, || page(&from_middle)),
        ),
        ("list 100 pending ones", median(100, 5, || page(&pending))),
        (
            "list 100 of a rare type, which looks at all",
            median(scans, 1, || page(&rare)),
        ),
        ("report progress", report(&execution, &session, 0)),
        (
            "report progress to 100 watchers",
            report(&execution, &session, WATCHERS),
        ),
        ("log a line of 60 characters", log(&execution, &session)),
    ];
    execution.stop(Instant::now() + Duration::from_secs(4));
    figures
}

/// Runs tasks that measure their own reports, while so many watch the session.
fn report(execution: &TaskExecutionService, session: &SessionKey, watchers: usize) -> f64 {
    let tasks = execution.tasks();
    let samples = (0..30).map(|_| {
        let mut watches: Vec<SessionWatch> = (0..watchers)
            .map(|_| tasks.watch_session(session).expect("there is room"))
            .collect();
        for watch in &mut watches {
            // Until the state now is told, events are not.
            assert!(matches!(
                watch.next(Duration::ZERO),
                SessionUpdate::State(_)
            ));
        }
        let new = NewTask::new("reports").kind("reports");
        let task = execution.submit(session, new).expect("there is room");
        let nanos = result(tasks, session, task.id);
        for watch in &mut watches {
            // Each was told all: else less was measured than is said.
            let events = std::iter::from_fn(|| match watch.next(Duration::ZERO) {
                SessionUpdate::Event(event) => Some(event),
                _ => None,
            });
            assert!(events.count() >= usize::from(REPORTS));
        }
        nanos
    });
    middle(samples.collect())
}

/// Runs tasks that measure their own lines.
fn log(execution: &TaskExecutionService, session: &SessionKey) -> f64 {
    let samples = (0..30).map(|_| {
        let new = NewTask::new("logs").kind("logs");
        let task = execution.submit(session, new).expect("there is room");
        result(execution.tasks(), session, task.id)
    });
    middle(samples.collect())
}

/// What a task has measured, once it is done.
fn result(tasks: &TaskManager, session: &SessionKey, id: TaskId) -> f64 {
    loop {
        let now = tasks.get(session, id).expect("it is there");
        match now.result {
            Some(result) => return result.get().parse().expect("a number"),
            None => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// An engine whose tasks of type `reports` and `logs` tell what a report or a line of theirs took, in nanoseconds.
fn engine(tasks: TaskManager) -> TaskExecutionService {
    let mut registry = ExecutorRegistry::new();
    registry.register("reports", |_input| {
        Ok(|ctx: &mut TaskContext<'_>| {
            let begun = Instant::now();
            for percent in 1..=REPORTS {
                ctx.progress(percent, "Working", "on a part of it")?;
            }
            let nanos = begun.elapsed().as_nanos() as f64 / f64::from(REPORTS);
            Ok(Outcome::done(nanos.into()))
        })
    });
    registry.register("logs", |_input| {
        Ok(|ctx: &mut TaskContext<'_>| {
            let line = "a line of a log is about as long as this one, more or less.".to_owned();
            let begun = Instant::now();
            for _ in 0..LINES {
                ctx.log(&line)?;
            }
            let nanos = begun.elapsed().as_nanos() as f64 / f64::from(LINES);
            Ok(Outcome::done(nanos.into()))
        })
    });
    TaskExecutionService::start_threads(tasks, registry, EngineOptions::default())
        .expect("threads can be started")
}

/// The median of so many samples, each of so many calls.
fn median(samples: usize, calls: u32, mut call: impl FnMut()) -> f64 {
    call();
    let samples = (0..samples).map(|_| {
        let begun = Instant::now();
        (0..calls).for_each(|_| call());
        begun.elapsed().as_nanos() as f64 / f64::from(calls)
    });
    middle(samples.collect())
}

fn middle(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Places all over the store, so that no read finds its task in the processor's cache by luck.
fn spread(size: usize) -> impl FnMut() -> usize {
    let mut place = 0;
    move || {
        place = (place + 7_919) % size;
        place
    }
}
