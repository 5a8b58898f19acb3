//! The races by name, a thousand rounds each, and the accounts after them.

use std::sync::Barrier;
use std::thread::scope;
use std::time::Duration;

use super::*;
use crate::task::{AttemptResult, LogStream, TaskStatus};

pub(super) const ROUNDS: usize = 1_000;

pub(super) fn key() -> SessionKey {
    SessionKey::parse("s").expect("a valid key")
}

pub(super) fn store(limits: Limits) -> TaskManager {
    TaskManager::new(limits, None)
}

/// A task that runs, as its worker sees it.
pub(super) fn running(tasks: &TaskManager) -> Attempt {
    let (_, attempt) = tasks
        .insert(&key(), NewTask::new("race"), true)
        .expect("there is room");
    tasks.begin(&attempt).expect("it was queued");
    attempt
}

/// Runs both at the same moment.
pub(super) fn at_once<A: Send, B: Send>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    let barrier = Barrier::new(2);
    scope(|scope| {
        let one = scope.spawn(|| {
            barrier.wait();
            one()
        });
        barrier.wait();
        let other = other();
        (one.join().expect("no panic"), other)
    })
}

/// Counters, bytes and trails, counted again.
pub(super) fn check(tasks: &TaskManager) {
    let (mut bytes, mut shared) = (0, 0);
    for session in tasks.sessions() {
        let state = session.state.read();
        bytes += state.weight();
        for status in TaskStatus::ALL {
            let counted = state.records().filter(|r| r.task.status == status).count();
            assert_eq!(state.count(status), counted, "{status}");
        }
        let active = state.records().filter(|r| r.is_active()).count();
        assert_eq!(state.is_quiet(), active == 0);
        shared += state
            .records()
            .map(|r| r.shares.iter().flatten().count())
            .sum::<usize>();
        for record in state.records() {
            let trail: Vec<_> = record.history.iter().collect();
            assert!(trail.iter().zip(1..).all(|(event, seq)| event.seq == seq));
            let last = trail.last().expect("created, at least");
            assert_eq!(last.status, record.task.status);
            assert_eq!(last.attempt, record.task.attempt);
        }
    }
    assert_eq!(tasks.bytes(), bytes);
    assert_eq!(tasks.shared.shares.read().len(), shared);
    assert!(bytes <= tasks.limits().max_store_bytes);
}

#[test]
fn cancel_against_complete_has_one_winner() {
    let tasks = store(Limits::default());
    for _ in 0..ROUNDS {
        let attempt = running(&tasks);
        let (cancelled, completed) = at_once(
            || tasks.cancel(&key(), attempt.task, "").is_ok(),
            || {
                tasks
                    .finish(&attempt, AttemptResult::Completed(None))
                    .is_some()
            },
        );
        assert!(cancelled != completed);
        let ends = tasks.history(&key(), attempt.task, |events| {
            events.filter(|event| event.status.is_final()).count()
        });
        assert_eq!(ends, Ok(1));
    }
    check(&tasks);
}

#[test]
fn a_late_report_of_the_old_attempt_does_not_touch_the_retry() {
    let tasks = store(Limits::default());
    for _ in 0..ROUNDS {
        let old = running(&tasks);
        tasks.cancel(&key(), old.task, "").expect("it runs");
        let (retried, reported) = at_once(
            || tasks.retry(&key(), old.task).expect("it was cancelled"),
            || tasks.report(&old, 50, "late", ""),
        );
        assert!(reported.is_err());
        let task = tasks.get(&key(), old.task).expect("it is there");
        assert_eq!((task.progress, task.step.is_none()), (0, true));
        tasks.begin(&retried.1).expect("it was queued again");
        assert!(tasks.report(&old, 50, "late", "").is_err());
        assert!(tasks.finish(&old, AttemptResult::Completed(None)).is_none());
        assert!(tasks.report(&retried.1, 10, "new", "").is_ok());
    }
    check(&tasks);
}

#[test]
fn cleanup_never_takes_a_task_that_was_queued_again() {
    let tasks = store(Limits {
        max_cancelled_tasks: 0,
        max_completed_tasks: ROUNDS,
        ..Limits::default()
    });
    for _ in 0..ROUNDS {
        let attempt = running(&tasks);
        tasks.cancel(&key(), attempt.task, "").expect("it runs");
        let (removed, retried) = at_once(
            || tasks.clean(&key()),
            || tasks.retry(&key(), attempt.task).map(|(_, run)| run),
        );
        match retried {
            Ok(run) => {
                assert_eq!(removed, 0);
                assert!(tasks.begin(&run).is_some(), "a queued task was lost");
                tasks.finish(&run, AttemptResult::Completed(None));
            }
            Err(refused) => assert_eq!((refused, removed), (StoreError::TaskNotFound, 1)),
        }
    }
    check(&tasks);
}

#[test]
fn a_task_created_while_its_session_expires_is_not_lost() {
    let tasks = store(Limits {
        session_timeout: Duration::from_millis(0),
        ..Limits::default()
    });
    for _ in 0..ROUNDS {
        let (_, attempt) = at_once(
            || tasks.expire(),
            || {
                tasks
                    .insert(&key(), NewTask::new("n"), true)
                    .map(|(_, a)| a)
            },
        );
        let attempt = attempt.expect("there is room");
        assert!(tasks.begin(&attempt).is_some(), "a queued task was lost");
        assert!(tasks.get(&key(), attempt.task).is_ok());
        tasks.finish(&attempt, AttemptResult::Failed("over".to_owned()));
    }
    check(&tasks);
    tasks.expire();
    assert_eq!(tasks.bytes(), 0);
}

#[test]
fn sessions_make_room_and_never_pass_their_limit() {
    let tasks = store(Limits {
        max_sessions: 4,
        ..Limits::default()
    });
    let create = |offset: usize| {
        for round in 0..ROUNDS {
            let name = format!("s{}", (round * 7 + offset) % 9);
            let key = SessionKey::parse(&name).expect("a valid key");
            tasks
                .create(&key, NewTask::new("n"))
                .expect("an idle session makes room");
        }
    };
    at_once(|| create(0), || create(3));
    assert!(tasks.sessions().len() <= 4);
    check(&tasks);
}

#[test]
fn a_session_used_while_room_is_made_keeps_its_tasks() {
    const OTHERS: usize = 100;
    let tasks = store(Limits {
        max_sessions: OTHERS + 2,
        ..Limits::default()
    });
    let named = |name: &str| SessionKey::parse(name).expect("a valid key");
    let create = |key: &SessionKey| {
        let made = tasks.create(key, NewTask::new("n"));
        made.expect("there is room, or an idle session makes some")
    };
    let touch = |key: &SessionKey, at| tasks.find(key).expect("it is there").touch(at);
    // Never idle; to look at them takes a while.
    for other in 0..OTHERS {
        let key = named(&format!("other-{other}"));
        create(&key);
        touch(&key, u64::MAX);
    }
    let (longest, longer, new) = (named("longest"), named("longer"), named("new"));
    for round in 0..ROUNDS {
        let id = create(&longest).id;
        create(&longer);
        while tasks.clock() < 2 {
            std::thread::yield_now();
        }
        touch(&longest, 0);
        touch(&longer, 1);
        let (used, made) = at_once(
            || {
                (0..round * 20).for_each(|_| std::hint::spin_loop());
                tasks.get(&longest, id).is_ok()
            },
            || create(&new),
        );
        let kept = tasks.get(&longest, id).is_ok();
        assert!(kept || !used, "a session in use was dropped");
        assert!(tasks.get(&new, made.id).is_ok());
        for session in [&longest, &longer, &new].map(|key| tasks.find(key)) {
            assert!(session.is_none_or(|s| tasks.drop_session(&s, "", |_| true)));
        }
    }
    check(&tasks);
}

/// A generator that is the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n) as usize
    }
}

#[test]
fn the_account_is_right_after_every_step_and_the_limit_holds() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let tasks = store(Limits {
        max_store_bytes: 1 << 20,
        ..Limits::default()
    });
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut refused = 0;
    for step in 0..6_000 {
        let text = "x".repeat(random.below(900));
        let one = (!attempts.is_empty()).then(|| random.below(attempts.len() as u64));
        match (random.below(11), one) {
            (0 | 1, _) => {
                let new = NewTask::new("n").description(&text);
                match tasks.insert(&key(), new, random.below(2) == 0) {
                    Ok((_, attempt)) => attempts.push(attempt),
                    Err(_) => refused += 1,
                }
            }
            (2, Some(i)) => drop(tasks.begin(&attempts[i])),
            (3 | 4, Some(i)) => {
                let percent = random.below(101) as u8;
                let _ = tasks.report(&attempts[i], percent, &text, &text);
            }
            (10, Some(i)) => {
                let lines = format!("{text}\n").repeat(random.below(40));
                let _ = tasks.add_log(&attempts[i], LogStream::Out, &lines);
            }
            (5, Some(i)) => {
                let result = serde_json::value::to_raw_value(&text).ok();
                tasks.finish(&attempts[i], AttemptResult::Completed(result));
            }
            (6, Some(i)) => drop(tasks.finish(&attempts[i], AttemptResult::Failed(text))),
            (7, Some(i)) => drop(tasks.cancel(&key(), attempts[i].task, "")),
            (9, Some(i)) if step % 2 == 0 => drop(tasks.share(&key(), attempts[i].task)),
            (9, Some(i)) => drop(tasks.share_with_log(&key(), attempts[i].task)),
            (8, Some(i)) => match random.below(3) {
                0 => drop(tasks.queue(&key(), attempts[i].task)),
                _ => {
                    if let Ok((_, attempt)) = tasks.retry(&key(), attempts[i].task) {
                        attempts[i] = attempt;
                    }
                }
            },
            _ => {}
        }
        if step % 2_000 == 1_999 {
            tasks.clean(&key());
        }
        if step % 10 == 0 {
            check(&tasks);
        }
    }
    assert!(refused > 0, "the limit was never reached");
    check(&tasks);
}

#[test]
fn a_share_against_the_cleanup_leaves_no_token_behind() {
    let limits = Limits {
        max_completed_tasks: 0,
        ..Limits::default()
    };
    let tasks = store(limits);
    for _ in 0..ROUNDS {
        let attempt = running(&tasks);
        tasks.finish(&attempt, AttemptResult::Completed(None));
        let (token, _) = at_once(|| tasks.share(&key(), attempt.task), || tasks.clean(&key()));
        assert!(token.is_err() || tasks.shared_task(token.expect("a token")).is_none());
    }
    check(&tasks);
}
