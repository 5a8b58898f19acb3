//! Pages of a session's tasks, newest first.

use crate::store::TaskManager;
use crate::store::record::Record;
use crate::store::session::{Session, State};
use crate::task::{SessionKey, Task, TaskId, TaskStatus};

/// The most tasks looked at under one hold of the session's lock.
const CHUNK: usize = 5_000;

/// The same where each is searched, which takes longer.
const SEARCHED: usize = 500;

/// Which tasks to list. The cursor of one page asks for the next page.
///
/// ```
/// use async_task_system::store::Limits;
/// use async_task_system::{ListQuery, NewTask, SessionKey, TaskManager, TaskStatus};
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// for name in ["a", "b", "c"] {
///     tasks.create(&session, NewTask::new(name))?;
/// }
/// let mut query = ListQuery::default().statuses([TaskStatus::Pending]).limit(2);
/// let first = tasks.list(&session, &query, |task| task.name.to_string());
/// assert_eq!((first.items, first.total), (vec!["c".to_owned(), "b".to_owned()], 3));
/// query.cursor = first.next;
/// let second = tasks.list(&session, &query, |task| task.name.to_string());
/// assert_eq!((second.items, second.next), (vec!["a".to_owned()], None));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListQuery {
    /// Only these statuses; all of them if it is empty.
    pub statuses: Vec<TaskStatus>,
    /// Only this type.
    pub kind: Option<String>,
    /// Only tasks at this step.
    pub step: Option<String>,
    /// Only tasks that have this text in their name, id, type, step or metadata, whatever its case.
    pub search: Option<String>,
    /// Only tasks older than this one.
    pub cursor: Option<TaskId>,
    /// At most so many.
    pub limit: usize,
}

impl Default for ListQuery {
    fn default() -> ListQuery {
        ListQuery {
            statuses: Vec::new(),
            kind: None,
            step: None,
            search: None,
            cursor: None,
            limit: 100,
        }
    }
}

impl ListQuery {
    /// Lists only tasks of these statuses.
    ///
    /// ```
    /// # use async_task_system::{ListQuery, TaskStatus};
    /// let ended = TaskStatus::ALL.into_iter().filter(|status| status.is_final());
    /// assert_eq!(ListQuery::default().statuses(ended).statuses.len(), 3);
    /// ```
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = TaskStatus>) -> ListQuery {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// Lists only tasks of this type.
    ///
    /// ```
    /// # use async_task_system::ListQuery;
    /// assert_eq!(ListQuery::default().kind("report").kind.as_deref(), Some("report"));
    /// ```
    pub fn kind(mut self, kind: &str) -> ListQuery {
        self.kind = Some(kind.to_owned());
        self
    }

    /// Lists only tasks at this step.
    ///
    /// ```
    /// # use async_task_system::ListQuery;
    /// assert_eq!(ListQuery::default().step("Sending").step.as_deref(), Some("Sending"));
    /// ```
    pub fn step(mut self, step: &str) -> ListQuery {
        self.step = Some(step.to_owned());
        self
    }

    /// Lists only tasks that have this text in their name, id, type, step or metadata, whatever its case.
    ///
    /// ```
    /// # use async_task_system::ListQuery;
    /// assert_eq!(ListQuery::default().search("Invoice").search.as_deref(), Some("invoice"));
    /// ```
    pub fn search(mut self, text: &str) -> ListQuery {
        self.search = Some(text.to_lowercase());
        self
    }

    /// Lists only tasks older than this one.
    ///
    /// ```
    /// # use async_task_system::{ListQuery, TaskId};
    /// let id = TaskId::now_v7();
    /// assert_eq!(ListQuery::default().cursor(id).cursor, Some(id));
    /// ```
    pub fn cursor(mut self, cursor: TaskId) -> ListQuery {
        self.cursor = Some(cursor);
        self
    }

    /// Lists at most so many.
    ///
    /// ```
    /// # use async_task_system::ListQuery;
    /// assert_eq!(ListQuery::default().limit(20).limit, 20);
    /// ```
    pub fn limit(mut self, limit: usize) -> ListQuery {
        self.limit = limit;
        self
    }

    fn matches(&self, task: &Task) -> bool {
        (self.statuses.is_empty() || self.statuses.contains(&task.status))
            && self.kind.as_deref().is_none_or(|kind| *kind == *task.kind)
            && (self.step.is_none() || self.step.as_deref() == task.step.as_deref())
            && self
                .search
                .as_deref()
                .is_none_or(|text| is_found(task, text))
    }

    /// The wanted statuses, each once; empty if all are wanted.
    fn distinct(&self) -> Vec<TaskStatus> {
        let wanted = |status: &TaskStatus| self.statuses.contains(status);
        TaskStatus::ALL.into_iter().filter(wanted).collect()
    }

    /// Whether the counters alone can tell how many tasks match.
    fn is_counted(&self) -> bool {
        self.kind.is_none() && self.step.is_none() && self.search.is_none()
    }
}

/// Whether a task has the text, which is in small letters.
fn is_found(task: &Task, text: &str) -> bool {
    let has = |place: &str| place.to_lowercase().contains(text);
    has(&task.name)
        || has(&task.kind)
        || task.step.as_deref().is_some_and(has)
        || task
            .id
            .hyphenated()
            .encode_lower(&mut [0; 36])
            .contains(text)
        || task.metadata.as_deref().is_some_and(|json| has(json.get()))
}

/// One page.
///
/// ```
/// # use async_task_system::store::{Limits, Page};
/// # use async_task_system::{ListQuery, NewTask, SessionKey, TaskManager};
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// tasks.create(&session, NewTask::new("Report"))?;
/// let page: Page<String> = tasks.list(&session, &ListQuery::default(), |task| task.name.to_string());
/// assert_eq!((page.items, page.total, page.next), (vec!["Report".to_owned()], 1, None));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<R> {
    /// The tasks, newest first.
    pub items: Vec<R>,
    /// How many match in all.
    pub total: usize,
    /// The cursor of the next page, if there is one.
    pub next: Option<TaskId>,
}

impl<R> Page<R> {
    pub(crate) fn empty() -> Page<R> {
        Page {
            items: Vec::new(),
            total: 0,
            next: None,
        }
    }
}

/// Part of a page.
#[derive(Default)]
pub(crate) struct Part {
    /// How many match in all; 0 if that was not asked for.
    pub(crate) total: usize,
    /// The task read last.
    pub(crate) last: Option<TaskId>,
    /// Whether further ones match.
    pub(crate) more: bool,
}

fn page<R>(session: &Session, query: &ListQuery, mut read: impl FnMut(&Task) -> R) -> Page<R> {
    let mut items = Vec::new();
    let part = part(session, query, true, |task| {
        items.push(read(task));
        true
    });
    Page {
        items,
        total: part.total,
        next: part.last.filter(|_| part.more),
    }
}

/// Calls `read` with tasks until it returns false or the query's limit is reached.
fn part(
    session: &Session,
    query: &ListQuery,
    count: bool,
    mut read: impl FnMut(&Task) -> bool,
) -> Part {
    let mut part = Part::default();
    let mut room = query.limit;
    let mut take = |part: &mut Part, task: &Task| {
        if room == 0 {
            part.more = true;
        } else {
            part.last = Some(task.id);
            room = if read(task) { room - 1 } else { 0 };
        }
    };
    if query.is_counted() {
        let statuses = query.distinct();
        let state = session.state.read();
        if count {
            part.total = match statuses.as_slice() {
                [] => state.len(),
                statuses => statuses.iter().map(|&status| state.count(status)).sum(),
            };
        }
        for record in candidates(&state, &statuses, query.cursor) {
            take(&mut part, &record.task);
            if part.more {
                break;
            }
        }
        return part;
    }
    // The total needs a look at every task. This goes in chunks, so that the lock is held briefly.
    let wanted = |task: &Task| query.cursor.is_none_or(|cursor| task.id < cursor);
    let mut place = query.cursor.filter(|_| !count);
    let chunk = match query.search {
        Some(_) => SEARCHED,
        None => CHUNK,
    };
    while count || !part.more {
        let state = session.state.read();
        let mut seen = 0;
        for record in state.newest(place).take(chunk) {
            seen += 1;
            place = Some(record.task.id);
            if query.matches(&record.task) {
                part.total += usize::from(count);
                if wanted(&record.task) && !part.more {
                    take(&mut part, &record.task);
                }
            }
        }
        if seen < chunk {
            break;
        }
    }
    part
}

/// The records of the wanted statuses below the cursor, newest first: the statuses' own
/// indexes, merged.
fn candidates<'a>(
    state: &'a State,
    statuses: &[TaskStatus],
    cursor: Option<TaskId>,
) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
    if statuses.is_empty() {
        return Box::new(state.newest(cursor));
    }
    let top = cursor.unwrap_or(TaskId::max());
    // Each status's newest id not yet listed, and the ids behind it.
    let mut heads: Vec<_> = statuses
        .iter()
        .filter_map(|&status| {
            let mut ids = state.ids(status).range(..top).rev();
            Some((*ids.next()?, ids))
        })
        .collect();
    Box::new(std::iter::from_fn(move || {
        let (at, _) = heads.iter().enumerate().max_by_key(|(_, (id, _))| *id)?;
        let newest = heads[at].0;
        match heads[at].1.next() {
            Some(&next) => heads[at].0 = next,
            None => drop(heads.swap_remove(at)),
        }
        state.get(newest)
    }))
}

impl TaskManager {
    /// A page of the session's tasks, newest first, each turned into an `R` by `read`, which
    /// runs under the session's lock.
    ///
    /// ```
    /// # use async_task_system::store::Limits;
    /// # use async_task_system::{ListQuery, NewTask, SessionKey, TaskManager};
    /// let tasks = TaskManager::new(Limits::default(), None);
    /// let session = SessionKey::parse("me").expect("a valid key");
    /// for name in ["older", "newer"] {
    ///     tasks.create(&session, NewTask::new(name))?;
    /// }
    /// let page = tasks.list(&session, &ListQuery::default(), |task| task.name.to_string());
    /// assert_eq!(page.items, ["newer", "older"]);
    /// # Ok::<(), async_task_system::StoreError>(())
    /// ```
    pub fn list<R>(
        &self,
        key: &SessionKey,
        query: &ListQuery,
        read: impl FnMut(&Task) -> R,
    ) -> Page<R> {
        match self.find(key) {
            Some(session) => page(&session, query, read),
            None => Page::empty(),
        }
    }

    /// Part of a page: calls `read` under the session's lock until it returns false. `count` asks for
    /// the total too.
    pub(crate) fn list_part(
        &self,
        key: &SessionKey,
        query: &ListQuery,
        count: bool,
        read: impl FnMut(&Task) -> bool,
    ) -> Part {
        match self.find(key) {
            Some(session) => part(&session, query, count, read),
            None => Part::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Limits, NewTask};

    #[test]
    fn a_search_looks_at_all_that_a_person_sees_whatever_its_case() {
        let tasks = TaskManager::new(Limits::default(), None);
        let key = SessionKey::parse("k").expect("a valid key");
        let metadata = serde_json::json!({ "customer": "Ödön" });
        let made = NewTask::new("Invoice 7").kind("Report").metadata(&metadata);
        let id = tasks.create(&key, made).expect("room").id.to_string();
        for i in 0..2 * SEARCHED {
            tasks
                .create(&key, NewTask::new(&i.to_string()))
                .expect("room");
        }
        let found = |text: &str| {
            let page = tasks.list(&key, &ListQuery::default().search(text), |task| {
                task.name.to_string()
            });
            (page.items, page.total)
        };
        for text in ["INVOICE", "report", "öDÖN", &id.to_uppercase(), "voice 7"] {
            assert_eq!(found(text), (vec!["Invoice 7".to_owned()], 1), "{text}");
        }
        assert_eq!(found("nobody"), (Vec::new(), 0));
    }

    #[test]
    fn a_status_named_twice_lists_its_tasks_once() {
        let tasks = TaskManager::new(Limits::default(), None);
        let key = SessionKey::parse("k").expect("a valid key");
        for name in ["a", "b"] {
            tasks.create(&key, NewTask::new(name)).expect("room");
        }
        let mut query = ListQuery {
            statuses: vec![TaskStatus::Pending, TaskStatus::Failed, TaskStatus::Pending],
            ..ListQuery::default()
        };
        for kind in [None, Some("sample".to_owned())] {
            query.kind = kind;
            let page = tasks.list(&key, &query, |task| task.name.to_string());
            assert_eq!((page.items.join(" "), page.total), ("b a".to_owned(), 2));
        }
    }
}
