//! The races by name, a thousand rounds each, and the accounts after them.

use std::sync::Barrier;
use std::thread::scope;
use std::time::Duration;

use super::*;
use crate::task::{AttemptResult, EventKind, TaskStatus};

const ROUNDS: usize = 1_000;

fn key() -> SessionKey {
    SessionKey::parse("s").expect("a valid key")
}

fn store(limits: Limits) -> TaskManager {
    TaskManager::new(limits, None)
}

/// A task that runs, as its worker sees it.
fn running(tasks: &TaskManager) -> Attempt {
    let (_, attempt) = tasks
        .insert(&key(), NewTask::new("race"), true)
        .expect("there is room");
    tasks.begin(&attempt).expect("it was queued");
    attempt
}

/// Runs both at the same moment.
fn at_once<A: Send, B: Send>(
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
        shared += state.records().filter(|r| r.share.is_some()).count();
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
            || tasks.cancel(&key(), attempt.task).is_ok(),
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
        tasks.cancel(&key(), old.task).expect("it runs");
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
        tasks.cancel(&key(), attempt.task).expect("it runs");
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
        while tasks.shared.clock() < 2 {
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
        match (random.below(10), one) {
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
            (5, Some(i)) => {
                let result = serde_json::value::to_raw_value(&text).ok();
                tasks.finish(&attempts[i], AttemptResult::Completed(result));
            }
            (6, Some(i)) => drop(tasks.finish(&attempts[i], AttemptResult::Failed(text))),
            (7, Some(i)) => drop(tasks.cancel(&key(), attempts[i].task)),
            (9, Some(i)) => drop(tasks.share(&key(), attempts[i].task)),
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
fn the_observer_is_told_the_history_in_order() {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let inside = seen.clone();
    let observer = move |_: &SessionKey, id: TaskId, event: &HistoryEvent<'_>| {
        inside.lock().push((id, event.seq, event.kind));
    };
    let tasks = TaskManager::new(Limits::default(), Some(Box::new(observer)));
    let attempt = running(&tasks);
    tasks.report(&attempt, 10, "Step", "").expect("it runs");
    tasks.finish(&attempt, AttemptResult::Failed("why".to_owned()));
    tasks.retry(&key(), attempt.task).expect("it failed");
    let told: Vec<_> = seen
        .lock()
        .iter()
        .map(|&(_, seq, kind)| (seq, kind))
        .collect();
    let kept = tasks.history(&key(), attempt.task, |events| {
        events
            .map(|event| (event.seq, event.kind))
            .collect::<Vec<_>>()
    });
    assert_eq!(Ok(&told), kept.as_ref());
    assert_eq!(told.last(), Some(&(7, EventKind::Queued)));
}

/// What a task's watcher hears up to the end.
fn hear_all(mut watch: TaskWatch) -> Vec<u32> {
    let mut told = Vec::new();
    loop {
        match watch.next(Duration::from_secs(30)) {
            WatchUpdate::Events(events) => told.extend(events.iter().map(|event| event.seq)),
            WatchUpdate::Nothing => panic!("the watcher was not woken"),
            WatchUpdate::Over => return told,
        }
    }
}

#[test]
fn a_watcher_that_comes_while_things_happen_misses_and_doubles_nothing() {
    let tasks = store(Limits::default());
    for round in 0..ROUNDS as u32 {
        let attempt = running(&tasks);
        let after = (round % 4 > 0).then_some(round % 4);
        let (told, _) = at_once(
            || {
                hear_all(
                    tasks
                        .watch(&key(), attempt.task, after)
                        .expect("it is there"),
                )
            },
            || {
                for percent in 1..=5 {
                    let _ = tasks.report(&attempt, percent, "Step", "");
                }
                tasks.finish(&attempt, AttemptResult::Completed(None));
            },
        );
        // Created, queued, started, five percents, completed.
        let first = after.map_or(told[0], |after| after + 1);
        assert_eq!(told, (first..=9).collect::<Vec<_>>());
    }
}

#[test]
fn a_sessions_watcher_hears_everything_between_its_state_and_the_end() {
    let tasks = store(Limits::default());
    for _ in 0..ROUNDS {
        let attempt = running(&tasks);
        let (told, _) = at_once(
            || {
                let mut watch = tasks.watch_session(&key()).expect("there is room");
                let mut told = Vec::new();
                let SessionUpdate::State(stats) = watch.next(Duration::ZERO) else {
                    panic!("the state comes first");
                };
                while stats.running > 0 && told.last() != Some(&6) {
                    match watch.next(Duration::from_secs(30)) {
                        SessionUpdate::Event(event) => told.push(event.seq),
                        other => panic!("{other:?}"),
                    }
                }
                told
            },
            || {
                let _ = tasks.report(&attempt, 1, "", "");
                let _ = tasks.report(&attempt, 2, "", "");
                tasks.finish(&attempt, AttemptResult::Completed(None));
            },
        );
        let first = told.first().copied().unwrap_or(7);
        assert_eq!(told, (first..=6).collect::<Vec<_>>());
        tasks.clean(&key());
    }
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

#[test]
fn a_watched_session_is_not_idle_and_gives_its_seat_back() {
    let limits = Limits {
        session_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let tasks = store(limits);
    let task = tasks
        .create(&key(), NewTask::new("n"))
        .expect("there is room");
    let watches = (
        tasks.watch(&key(), task.id, None).expect("it is there"),
        tasks.watch_session(&key()).expect("there is room"),
    );
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(tasks.expire(), 0);
    drop(watches);
    let session = tasks.find(&key()).expect("it was watched until now");
    assert!(session.state.read().hub.is_empty());
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(tasks.expire(), 1);
}

#[test]
fn watches_of_a_session_that_leaves_are_over() {
    let limits = Limits {
        max_sessions: 1,
        ..Limits::default()
    };
    let tasks = store(limits);
    let task = tasks
        .create(&key(), NewTask::new("n"))
        .expect("there is room");
    let mut watch = tasks.watch(&key(), task.id, None).expect("it is there");
    let mut all = tasks.watch_session(&key()).expect("there is room");
    assert!(matches!(watch.next(Duration::ZERO), WatchUpdate::Events(_)));
    assert!(matches!(all.next(Duration::ZERO), SessionUpdate::State(_)));
    let other = SessionKey::parse("other").expect("a valid key");
    tasks
        .create(&other, NewTask::new("n"))
        .expect("the idle one makes room");
    assert_eq!(watch.next(Duration::from_secs(30)), WatchUpdate::Over);
    assert_eq!(all.next(Duration::from_secs(30)), SessionUpdate::Over);
}

#[test]
fn older_events_are_told_with_the_standing_of_their_time() {
    let tasks = store(Limits::default());
    let attempt = running(&tasks);
    let live = tasks
        .watch(&key(), attempt.task, Some(0))
        .expect("it is there");
    let mut live = live;
    let mut told = Vec::new();
    let mut listen = || match live.next(Duration::ZERO) {
        WatchUpdate::Events(events) => told.extend(events),
        other => panic!("{other:?}"),
    };
    listen();
    for (percent, step) in [(10, "One"), (20, ""), (20, "Two"), (30, "Three")] {
        tasks
            .report(&attempt, percent, step, "why")
            .expect("it runs");
        listen();
    }
    tasks.finish(&attempt, AttemptResult::Failed("broken".to_owned()));
    tasks.retry(&key(), attempt.task).expect("it failed");
    listen();
    tasks.cancel(&key(), attempt.task).expect("it is queued");
    listen();
    let mut later = tasks
        .watch(&key(), attempt.task, Some(0))
        .expect("it is there");
    let WatchUpdate::Events(replayed) = later.next(Duration::ZERO) else {
        panic!("the whole history");
    };
    assert_eq!(replayed, told);
}
