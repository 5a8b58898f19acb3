//! Tasks to be created.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::executor::TaskInput;
use crate::task::{DEFAULT_KIND, SessionKey, Task, TaskId, TaskStatus, now_ms};

/// A task to be created.
///
/// ```
/// use async_task_system::NewTask;
/// use std::time::Duration;
///
/// let task = NewTask::new("Monthly report")
///     .kind("report")
///     .metadata(&serde_json::json!({ "month": "2026-10" }))
///     .timeout(Duration::from_secs(60));
/// ```
#[derive(Clone, Debug)]
pub struct NewTask {
    pub(crate) name: Box<str>,
    pub(crate) description: Option<Box<str>>,
    pub(crate) kind: Arc<str>,
    pub(crate) metadata: Option<Box<RawValue>>,
    pub(crate) timeout_ms: Option<u64>,
}

impl NewTask {
    /// A task of this name, of type `sample`.
    ///
    /// ```
    /// # use async_task_system::{NewTask, TaskInput};
    /// assert_eq!(&*TaskInput::from(&NewTask::new("Report")).name, "Report");
    /// ```
    pub fn new(name: &str) -> NewTask {
        NewTask {
            name: name.into(),
            description: None,
            kind: DEFAULT_KIND.into(),
            metadata: None,
            timeout_ms: None,
        }
    }

    /// Sets the type, which names the executor; a task of a type that nobody has registered runs the
    /// one of [`DEFAULT_KIND`].
    ///
    /// ```
    /// # use async_task_system::{NewTask, TaskInput};
    /// assert_eq!(&*TaskInput::from(&NewTask::new("Report").kind("report")).kind, "report");
    /// ```
    pub fn kind(mut self, kind: &str) -> NewTask {
        self.kind = kind.into();
        self
    }

    /// Sets the description.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let task = tasks.create(&session, NewTask::new("Report").description("of June"))?;
    /// assert_eq!(task.description.as_deref(), Some("of June"));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn description(mut self, description: &str) -> NewTask {
        self.description = Some(description.into());
        self
    }

    /// Sets the metadata, which the executor reads as its arguments.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let metadata = serde_json::json!({ "month": 6 });
    /// let task = tasks.create(&session, NewTask::new("Report").metadata(&metadata))?;
    /// assert_eq!(task.metadata.expect("it has some").get(), r#"{"month":6}"#);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn metadata(mut self, metadata: &serde_json::Value) -> NewTask {
        // A Value always serialises; were it otherwise, the task simply has no metadata.
        self.metadata = serde_json::value::to_raw_value(metadata).ok();
        self
    }

    /// Sets how long an attempt may run.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// let limit = std::time::Duration::from_secs(60);
    /// let task = tasks.create(&session, NewTask::new("Report").timeout(limit))?;
    /// assert_eq!(task.timeout_ms, Some(60_000));
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> NewTask {
        self.timeout_ms = Some(timeout.as_millis() as u64);
        self
    }
}

/// What the first attempt at such a task is given, for tests of executors.
///
/// ```
/// use async_task_system::{NewTask, TaskInput};
///
/// let arguments = serde_json::json!({ "path": "a.txt" });
/// let input = TaskInput::from(&NewTask::new("Count").metadata(&arguments));
/// assert_eq!(input.attempt, 1);
/// ```
impl From<&NewTask> for TaskInput {
    fn from(new: &NewTask) -> TaskInput {
        let (kind, name) = (new.kind.clone(), new.name.clone());
        TaskInput::new(TaskId::now_v7(), kind, name, 1, new.metadata.clone())
    }
}

/// The task as it is born.
pub(super) fn new_task(id: TaskId, key: &SessionKey, new: NewTask, queued: bool) -> Task {
    let now = now_ms();
    Task {
        id,
        session: key.clone(),
        name: new.name,
        description: new.description,
        status: TaskStatus::Pending,
        progress: 0,
        step: None,
        step_description: None,
        created_at: now,
        updated_at: now,
        started_at: None,
        completed_at: None,
        error: None,
        result: None,
        metadata: new.metadata,
        kind: new.kind,
        attempt: 1,
        timeout_ms: new.timeout_ms,
        queued,
        waiting: false,
        paused: false,
        version: 0,
    }
}
