//! Background tasks with progress: create one, have an id at once, watch it run.
//!
//! The crate is an HTTP server and a library over the same engine, with threads and channels
//! and without an async runtime. Embedding it takes a few lines:
//!
//! ```
//! use async_task_system::{ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskSystem};
//! use serde_json::json;
//!
//! let mut registry = ExecutorRegistry::new();
//! registry.register("greet", |_input| {
//!     Ok(|ctx: &mut TaskContext<'_>| {
//!         ctx.progress(50, "Greeting", "")?;
//!         Ok(Outcome::done(json!({ "said": "hello" })))
//!     })
//! });
//! let system = TaskSystem::start(&Default::default(), registry)?;
//! let session = SessionKey::parse("me").expect("a valid key");
//! let task = system.execution().submit(&session, NewTask::new("Greeting").kind("greet"))?;
//! let now = system.tasks().get(&session, task.id)?;
//! assert_eq!(now.kind.as_ref(), "greet");
//! system.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! To read the source, go from the values up: [`task`], [`executor`], [`events`], [`config`], [`store`],
//! [`engine`], then `demo`, [`TaskSystem`], `http`, `api`, `jobs`, [`Server`] and [`run`]. Imports point only that way.

mod actor;
mod api;
pub mod config;
mod demo;
pub mod engine;
pub mod events;
pub mod executor;
mod field_error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod idempotency;
mod jobs;
#[cfg(test)]
mod log_notes;
mod log_safe;
mod metrics;
mod nesting;
mod net;
mod program;
mod refusal;
mod semaphore;
mod server;
mod spelling;
pub mod store;
mod system;
pub mod task;
mod threads;

/// The code in the documents is compiled, and run, with the other examples.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;

    #[doc = include_str!("../docs/executors.md")]
    struct Executors;
}

#[doc(inline)]
pub use config::{Config, ConfigError};
#[doc(inline)]
pub use engine::{TaskCleanupService, TaskExecutionService};
#[doc(inline)]
pub use executor::{
    ExecutorRegistry, FieldError, Outcome, Report, StopHandle, TaskContext, TaskError,
    TaskExecutor, TaskInput,
};
#[doc(inline)]
pub use jobs::{migrate, migration_sql, token};
#[doc(inline)]
pub use program::{check, run};
#[doc(inline)]
pub use server::Server;
#[doc(inline)]
pub use store::{ListQuery, NewTask, Stats, StoreError, TaskManager};
#[doc(inline)]
pub use system::TaskSystem;
#[doc(inline)]
pub use task::{EventKind, HistoryEvent, SessionKey, Task, TaskId, TaskStatus};
