//! A running task in a person's hands: it waits for them, is let go on, is paused and resumed.

use crate::store::budget::Budget;
use crate::store::history::{ENTRY, History};
use crate::store::record::{MAX_MESSAGE, RESERVE, Record, clip};
use crate::task::{EventKind, Millis, TaskStatus, TransitionError};

impl Record {
    /// What the executor is told since it waits for a person. Without that, it waits from now on.
    pub(crate) fn signal(&mut self, now: Millis, budget: &Budget) -> Option<Box<str>> {
        if let Some(note) = self.signal.take() {
            budget.refund(note.len());
            return Some(note);
        }
        if !self.task.waiting {
            let is_noted = self.note(EventKind::Waiting, now, "", budget, |record, _| {
                record.task.waiting = true;
            });
            // It waits all the same, so that it can be let go on.
            self.task.waiting = true;
            self.task.version += u64::from(!is_noted);
        }
        None
    }

    pub(crate) fn has_signal(&self) -> bool {
        self.signal.is_some()
    }

    /// Lets an attempt go on that waits for a person. Returns false if there is no room.
    pub(crate) fn advance(
        &mut self,
        now: Millis,
        note: &str,
        budget: &Budget,
    ) -> Result<bool, TransitionError> {
        if !self.task.waiting {
            return Err(TransitionError::NotWaiting);
        }
        Ok(
            self.note(EventKind::Advanced, now, note, budget, |record, note| {
                record.task.waiting = false;
                record.signal = Some(note.into());
            }),
        )
    }

    /// Holds the attempt before its next slice. It changes nothing if it is held. Returns false if there is no room.
    pub(crate) fn pause(
        &mut self,
        now: Millis,
        note: &str,
        budget: &Budget,
    ) -> Result<bool, TransitionError> {
        if self.task.status != TaskStatus::Running {
            return Err(TransitionError::NotRunning(self.task.status));
        }
        Ok(self.task.paused
            || self.note(EventKind::Paused, now, note, budget, |record, _| {
                record.task.paused = true;
            }))
    }

    /// Holds the attempt no more. Returns false if there is no room.
    pub(crate) fn resume(
        &mut self,
        now: Millis,
        note: &str,
        budget: &Budget,
    ) -> Result<bool, TransitionError> {
        if !self.task.paused {
            return Err(TransitionError::NotPaused);
        }
        Ok(
            self.note(EventKind::Resumed, now, note, budget, |record, _| {
                record.task.paused = false;
            }),
        )
    }

    /// Makes a change, with an entry for it. A full store drops the note, and takes the entry from the attempt's reserve, of
    /// which half is left for reports. Returns false, and changes nothing, if there is no room.
    fn note(
        &mut self,
        kind: EventKind,
        now: Millis,
        note: &str,
        budget: &Budget,
        change: impl Fn(&mut Record, &str),
    ) -> bool {
        let note = clip(note, MAX_MESSAGE);
        let now = self.moment(now);
        let most = ENTRY + History::text_cost("", note) + note.len();
        let is_noted = self.spend(budget, most, |record| {
            record.task.updated_at = now;
            change(record, note);
            record.log(kind, "", note);
        });
        let has_reserve = !is_noted && self.reserve > RESERVE / 2;
        if has_reserve {
            self.task.updated_at = now;
            change(self, "");
            self.log_from_reserve(kind, "", "");
        }
        is_noted || has_reserve
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::NewTask;
    use crate::store::new_task::new_task;
    use crate::task::{AttemptResult, SessionKey, TaskId};

    #[test]
    fn a_full_store_lets_a_person_hold_what_runs_without_notes() {
        let budget = Budget::new(1_000_000);
        let key = SessionKey::parse("me").expect("a valid key");
        let task = new_task(TaskId::now_v7(), &key, NewTask::new("Report"), true);
        let mut record = Record::create(task, &budget).expect("room");
        assert!(record.begin(1, 1));
        let others = 1_000_000 - budget.used();
        assert!(budget.charge(others), "it is full now");
        assert_eq!(record.signal(2, &budget), None);
        assert_eq!(record.advance(3, "fine", &budget), Ok(true));
        assert_eq!(record.signal(4, &budget).as_deref(), Some(""));
        let mut held = 0;
        while record.pause(5, "why", &budget) == Ok(true)
            && record.resume(6, "", &budget) == Ok(true)
        {
            held += 1;
        }
        assert!((20..400).contains(&held), "{held}");
        // What is left is for the attempt's own reports.
        for percent in 1..=50 {
            record.report(7, percent, "", "", &budget);
        }
        record.finish(8, AttemptResult::Failed("why".to_owned()), &budget);
        assert_eq!(budget.used(), others + record.weight());
    }
}
