//! A task with its history and its account. Every change of one updates the other two.
//!
//! What a record is charged is its [`weight`](Record::weight). An attempt that is queued or
//! running sets a [`RESERVE`] aside, large enough for every transition and every percent it can
//! still report, so that a full store refuses new work but never loses the trail of work it
//! has accepted. Texts beyond the reserve are kept while there is room for them.

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::store::budget::Budget;
use crate::store::history::{ENTRY, History};
use crate::store::task_log::{LOG_FIXED, NewLine, TaskLog};
use crate::task::{
    AttemptResult, Change, EventKind, Millis, ParseError, Task, TaskStatus, TransitionError,
};

/// Started, a hundred percents and an end, and one to spare.
const ESSENTIAL_ENTRIES: usize = 103;

/// So much of an error is kept whatever happens.
const ERROR_KEPT: usize = 250;

/// What an active attempt sets aside: its entries, its error in task and history, and a log without lines.
pub(super) const RESERVE: usize = ESSENTIAL_ENTRIES * ENTRY + 2 * ERROR_KEPT + 8 + LOG_FIXED;

/// The record itself, its place in the session's indexes and the allocator's overhead.
const FIXED: usize = size_of::<Record>() + 180;

/// A share link's place among all of them.
const SHARE: usize = 200;

/// The longest step name kept, in bytes.
const MAX_STEP: usize = 400;

/// The longest description of a step, or error, kept, in bytes.
pub(super) const MAX_MESSAGE: usize = 2_000;

/// 122 random bits; its text is 32 hexadecimal digits.
///
/// ```
/// use async_task_system::store::{Limits, ShareToken};
/// use async_task_system::{NewTask, SessionKey, TaskManager};
///
/// let tasks = TaskManager::new(Limits::default(), None);
/// let session = SessionKey::parse("me").expect("a valid key");
/// let id = tasks.create(&session, NewTask::new("Report"))?.id;
/// let text = tasks.share(&session, id)?.to_string();
/// assert_eq!(text.len(), 32);
/// let token = ShareToken::parse(&text).expect("it was ours");
/// assert_eq!(tasks.shared_task(token), Some((session, id)));
/// # Ok::<(), async_task_system::StoreError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShareToken(pub(super) Uuid);

impl ShareToken {
    /// The token of that text.
    ///
    /// ```
    /// use async_task_system::store::ShareToken;
    ///
    /// assert!(ShareToken::parse("0123456789abcdef0123456789abcdef").is_some());
    /// assert!(ShareToken::parse("me").is_none());
    /// ```
    pub fn parse(text: &str) -> Option<ShareToken> {
        // The other spellings of a UUID would be other addresses of the same page.
        let plain = text.len() == 32 && !text.bytes().any(|b| b.is_ascii_uppercase());
        let id = plain.then(|| Uuid::try_parse(text).ok())?;
        id.map(ShareToken)
    }
}

/// ```
/// use async_task_system::store::ShareToken;
///
/// let token: ShareToken = "0123456789abcdef0123456789abcdef".parse()?;
/// assert_eq!(token.to_string(), "0123456789abcdef0123456789abcdef");
/// # Ok::<(), async_task_system::task::ParseError>(())
/// ```
impl std::str::FromStr for ShareToken {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ShareToken, ParseError> {
        ShareToken::parse(text).ok_or(ParseError("32 lower-case hexadecimal digits"))
    }
}

impl std::fmt::Display for ShareToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// A task, its history and its reserve.
pub(crate) struct Record {
    pub(crate) task: Task,
    pub(crate) history: History,
    /// Bytes that are charged and not yet used. Always enough for the entry that ends the task.
    pub(super) reserve: usize,
    /// A link to it, and one that shows its log too.
    pub(crate) shares: [Option<ShareToken>; 2],
    /// The note of who let the attempt go on, until its executor has taken it.
    pub(super) signal: Option<Box<str>>,
    /// There is none before its first line.
    log_lines: Option<Box<TaskLog>>,
}

impl Record {
    /// Charges and keeps a new task; `None` if the budget has no room.
    pub(crate) fn create(task: Task, budget: &Budget) -> Option<Record> {
        let mut record = Record {
            history: History::with_capacity(if task.queued { 64 } else { 3 }),
            task,
            reserve: ENTRY,
            shares: [None; 2],
            signal: None,
            log_lines: None,
        };
        record.log(EventKind::Created, "", "");
        if record.task.queued {
            record.reserve = RESERVE;
            record.log(EventKind::Queued, "", "");
        }
        budget.charge(record.weight()).then_some(record)
    }

    /// The bytes this record is charged.
    pub(crate) fn weight(&self) -> usize {
        let task = &self.task;
        let text = |text: &Option<Box<str>>| text.as_deref().map_or(0, str::len);
        let json = |json: &Option<Box<RawValue>>| json.as_deref().map_or(0, |j| j.get().len());
        FIXED
            + task.name.len()
            + task.kind.len()
            + text(&task.description)
            + text(&task.step)
            + text(&task.step_description)
            + text(&task.error)
            + json(&task.metadata)
            + json(&task.result)
            + self.signal.as_deref().map_or(0, str::len)
            + self.history.bytes()
            + self.reserve
            + self.shares.iter().flatten().count() * SHARE
            + self.task_log().map_or(0, |log| LOG_FIXED + log.room())
    }

    /// What its executor said, if anything.
    pub(crate) fn task_log(&self) -> Option<&TaskLog> {
        self.log_lines.as_deref()
    }

    /// Queued or running.
    pub(crate) fn is_active(&self) -> bool {
        self.task.queued || self.task.status == TaskStatus::Running
    }

    /// The time of a change that comes `now`. It never goes back, even if the clock is set back.
    pub(super) fn moment(&self, now: Millis) -> Millis {
        now.max(self.task.updated_at)
    }

    /// Hands the task to the workers. `Ok(false)`: no room for its reserve, and no change.
    pub(crate) fn queue(&mut self, now: Millis, budget: &Budget) -> Result<bool, TransitionError> {
        let now = self.moment(now);
        self.task.check_queue()?;
        Ok(self.spend(budget, RESERVE, |record| {
            record.task.queue(now);
            record.reserve = RESERVE;
            record.log(EventKind::Queued, "", "");
        }))
    }

    /// A worker begins `attempt`. Returns false if the task does not wait for this attempt.
    pub(crate) fn begin(&mut self, now: Millis, attempt: u32) -> bool {
        let now = self.moment(now);
        let begun = self.task.begin(now, attempt);
        if begun {
            self.log_from_reserve(EventKind::Started, "", "");
        }
        begun
    }

    /// Takes a report of the running attempt.
    pub(crate) fn report(
        &mut self,
        now: Millis,
        percent: u8,
        step: &str,
        description: &str,
        budget: &Budget,
    ) {
        let now = self.moment(now);
        let (step, description) = (clip(step, MAX_STEP), clip(description, MAX_MESSAGE));
        let texts = 2 * History::text_cost(step, description);
        match self.task.compare(percent, step, description) {
            Change::Nothing => {}
            Change::Percent => {
                self.task.progress = percent;
                self.task.updated_at = now;
                let with_texts = self.spend(budget, texts, |record| {
                    record.task.set_step(step, description);
                    record.log_from_reserve(EventKind::Progress, step, description);
                });
                if !with_texts {
                    self.log_from_reserve(EventKind::Progress, "", "");
                }
            }
            Change::Step => {
                self.task.updated_at = now;
                let logged = self.history.has_room();
                self.spend(budget, texts + ENTRY, |record| {
                    record.task.set_step(step, description);
                    record.task.version += 1;
                    if logged {
                        record.log(EventKind::Progress, step, description);
                    }
                });
            }
        }
    }

    /// Adds a line of the running attempt to the log. A full store makes the log forget older lines.
    pub(crate) fn add_line(&mut self, line: &NewLine<'_>, max: usize, budget: &Budget) {
        let log = self.log_lines.get_or_insert_with(|| {
            self.reserve -= LOG_FIXED;
            Box::default()
        });
        log.push(line, max, budget);
    }

    /// The running attempt's end. A result that the store has no room for fails the task.
    pub(crate) fn finish(&mut self, now: Millis, ending: AttemptResult, budget: &Budget) {
        match ending {
            AttemptResult::Failed(message) | AttemptResult::FailedForGood(message) => {
                self.end(now, TaskStatus::Failed, &message, budget)
            }
            AttemptResult::Completed(result) => {
                let size = result.as_deref().map_or(0, |json| json.get().len());
                if self.spend(budget, size, |record| record.task.result = result) {
                    self.end(now, TaskStatus::Completed, "", budget);
                } else {
                    let why = format!("the store is full: no room for a result of {size} bytes");
                    self.end(now, TaskStatus::Failed, &why, budget);
                }
            }
        }
    }

    /// Calls the task off, with a reason or none.
    pub(crate) fn cancel(
        &mut self,
        now: Millis,
        reason: &str,
        budget: &Budget,
    ) -> Result<(), TransitionError> {
        self.task.check_cancel()?;
        self.end(now, TaskStatus::Cancelled, reason, budget);
        Ok(())
    }

    /// Queues a new attempt. `Ok(false)`: no room for its reserve, and no change.
    pub(crate) fn retry(&mut self, now: Millis, budget: &Budget) -> Result<bool, TransitionError> {
        let now = self.moment(now);
        self.task.check_retry()?;
        Ok(self.spend(budget, RESERVE + 2 * ENTRY, |record| {
            record.task.retry(now);
            record.reserve = RESERVE;
            record.log(EventKind::Retried, "", "");
            record.log(EventKind::Queued, "", "");
        }))
    }

    /// The share token, drawn at the first call; `None` if the budget has no room.
    pub(crate) fn share(
        &mut self,
        budget: &Budget,
        with_log: bool,
        draw: impl FnOnce() -> ShareToken,
    ) -> Option<ShareToken> {
        let place = usize::from(with_log);
        if self.shares[place].is_none() {
            self.spend(budget, SHARE, |record| record.shares[place] = Some(draw()));
        }
        self.shares[place]
    }

    /// Ends the task, and refunds what is left of its reserve.
    fn end(&mut self, now: Millis, status: TaskStatus, message: &str, budget: &Budget) {
        let now = self.moment(now);
        let mut held = self.weight();
        let mut message = clip(message, MAX_MESSAGE);
        let texts = message.len() + History::text_cost("", message);
        let spare = self.reserve.saturating_sub(ENTRY);
        if texts > spare {
            if budget.charge(texts) {
                held += texts;
            } else {
                message = clip(message, spare.saturating_sub(4) / 2);
            }
        }
        self.task.finish(now, status);
        self.signal = None;
        self.task.error = (!message.is_empty()).then(|| message.into());
        self.reserve = 0;
        let kind = match status {
            TaskStatus::Completed => EventKind::Completed,
            TaskStatus::Cancelled => EventKind::Cancelled,
            _ => EventKind::Failed,
        };
        self.log(kind, "", message);
        self.history.shrink();
        if let Some(log) = &mut self.log_lines {
            log.shrink();
        }
        budget.refund(held - self.weight());
    }

    /// Charges `most`, applies `change`, and refunds what it did not use. Returns false, and changes
    /// nothing, if there is no room.
    pub(super) fn spend(
        &mut self,
        budget: &Budget,
        most: usize,
        change: impl FnOnce(&mut Record),
    ) -> bool {
        let held = self.weight() + most;
        let room = budget.charge(most);
        if room {
            change(self);
            budget.refund(held - self.weight());
        }
        room
    }

    /// Appends an entry. Its bytes, without its texts, are paid from the reserve.
    pub(super) fn log_from_reserve(&mut self, kind: EventKind, step: &str, message: &str) {
        let before = self.history.bytes();
        self.log(kind, step, message);
        let own = self.history.bytes() - before - History::text_cost(step, message);
        self.reserve -= own;
    }

    pub(super) fn log(&mut self, kind: EventKind, step: &str, message: &str) {
        self.task.version += 1;
        let (at, progress) = (self.task.updated_at, self.task.progress);
        self.history.push(kind, at, progress, step, message);
    }
}

/// The start of `text` that fits into `max` bytes, cut between characters.
pub(super) fn clip(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewTask;
    use crate::store::new_task::new_task;
    use crate::task::{SessionKey, TaskId};

    #[test]
    fn a_clock_set_back_does_not_turn_the_story_round() {
        let budget = Budget::new(1_000_000);
        let key = SessionKey::parse("me").expect("a valid key");
        let task = new_task(TaskId::now_v7(), &key, NewTask::new("Report"), true);
        let mut record = Record::create(task, &budget).expect("room");
        let created = record.task.created_at;
        assert!(record.begin(created - 1_000, 1));
        record.report(created + 5_000, 10, "", "", &budget);
        record.finish(created - 2_000, AttemptResult::Completed(None), &budget);
        assert_eq!(record.task.started_at, Some(created));
        assert_eq!(record.task.completed_at, Some(created + 5_000));
        let told: Vec<_> = record.history.iter().map(|event| event.at).collect();
        let after = [0, 0, 0, 5_000, 5_000].map(|after| created + after);
        assert_eq!(told, after);
    }
}
