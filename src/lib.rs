//! Background tasks with progress: create one, have an id at once, watch it run.
//!
//! The crate is an HTTP server and a library over the same engine, with threads and channels
//! and without an async runtime. Embedding it takes a few lines:
//!
//! ```
//! use async_task_system::{ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskSystem};
//! use serde_json::json;
//!
//! #[derive(serde::Deserialize)]
//! struct Greet { names: Vec<String> }
//!
//! let mut registry = ExecutorRegistry::new();
//! registry.typed("greet", |args: &mut Greet, ctx: &mut TaskContext<'_>| {
//!     ctx.each("Greeting", &args.names, |name| {
//!         println!("hello {name}");
//!         Ok(())
//!     })?;
//!     Ok(Outcome::done(json!({ "greeted": args.names.len() })))
//! });
//!
//! let system = TaskSystem::start(&Default::default(), registry)?;
//! let session: SessionKey = "me".parse()?;
//! let task = NewTask::new("Greeting").kind("greet").metadata(&json!({ "names": ["ann", "bob"] }));
//! let id = system.execution().submit(&session, task)?.id;
//! assert_eq!(system.tasks().get(&session, id)?.kind.as_ref(), "greet");
//!
//! let refused = system.execution().submit(&session, NewTask::new("Greeting").kind("greet"));
//! assert_eq!(refused.unwrap_err().to_string(), "names is required");
//! system.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Where to go on: [`ExecutorRegistry`] for executors and their arguments, [`testing`] to test them,
//! [`TaskManager`] to follow tasks, [`Server`] for HTTP in your own program, and [`run`] for a whole program.
//!
//! To read the source, go from the values up: [`task`], [`executor`], [`testing`], [`events`], [`config`], [`store`],
//! [`engine`], then `demo`, [`TaskSystem`], `http`, `api`, `jobs`, [`Server`] and [`run`]. Imports point only that way.

mod actor;
mod api;
mod cast;
pub mod client;
pub mod config;
mod demo;
pub mod engine;
pub mod events;
pub mod executor;
#[allow(dead_code)]
mod executors;
mod field_error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod idempotency;
mod jobs;
mod log_form;
#[cfg(test)]
mod log_notes;
mod log_safe;
mod metrics;
mod nesting;
mod net;
mod plain_text;
mod player;
mod program;
mod refusal;
mod semaphore;
mod server;
mod spelling;
pub mod store;
mod streams;
mod system;
pub mod task;
mod terminal;
pub mod testing;
mod threads;

/// Handles go to any thread.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Config>();
    is_shared::<ExecutorRegistry>();
    is_shared::<NewTask>();
    is_shared::<Server>();
    is_shared::<SessionKey>();
    is_shared::<StopHandle>();
    is_shared::<Task>();
    is_shared::<TaskCleanupService>();
    is_shared::<TaskError>();
    is_shared::<TaskExecutionService>();
    is_shared::<TaskInput>();
    is_shared::<TaskManager>();
    is_shared::<TaskSystem>();
    is_shared::<StoreError>();
    is_shared::<store::SessionWatch>();
    is_shared::<store::TaskWatch>();
};

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
    ExecutorRegistry, FieldError, Outcome, Registration, Report, StopHandle, TaskContext,
    TaskError, TaskExecutor, TaskInput, Waker,
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
pub use task::{EventKind, HistoryEvent, LogLine, LogStream, SessionKey, Task, TaskId, TaskStatus};
