//! Races between watchers and changes: every event is told once and in order.

use std::time::Duration;

use super::races::{ROUNDS, at_once, check, key, running, store};
use super::*;
use crate::task::{AttemptResult, EventKind, LogStream};

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
            WatchUpdate::Log(_) => panic!("it did not ask for the log"),
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
    tasks
        .cancel(&key(), attempt.task, "")
        .expect("it is queued");
    listen();
    let mut later = tasks
        .watch(&key(), attempt.task, Some(0))
        .expect("it is there");
    let WatchUpdate::Events(replayed) = later.next(Duration::ZERO) else {
        panic!("the whole history");
    };
    assert_eq!(replayed, told);
}

#[test]
fn a_watcher_of_the_log_hears_each_line_once_and_the_end_last() {
    const LINES: u64 = 600;
    let tasks = store(Limits::default());
    for round in 0..ROUNDS as u64 / 10 {
        let attempt = running(&tasks);
        let after = round % 3;
        for n in 0..after {
            tasks
                .add_log(&attempt, LogStream::Log, &n.to_string())
                .expect("it runs");
        }
        let watch = tasks
            .watch(&key(), attempt.task, None)
            .expect("it is there");
        let mut watch = watch.with_log(after);
        let hear = || {
            let (mut told, mut ended) = (Vec::new(), false);
            loop {
                match watch.next(Duration::from_secs(30)) {
                    WatchUpdate::Log(part) => {
                        assert!(!ended && part.dropped == 0);
                        told.extend(part.lines.iter().map(|line| line.n));
                    }
                    WatchUpdate::Events(events) => {
                        ended |= events.iter().any(|event| event.snapshot.status.is_final());
                    }
                    WatchUpdate::Nothing => panic!("the watcher was not woken"),
                    WatchUpdate::Over => return (told, ended),
                }
            }
        };
        let ((told, ended), _) = at_once(hear, || {
            for n in 0..LINES {
                tasks
                    .add_log(&attempt, LogStream::Out, &n.to_string())
                    .expect("it runs");
            }
            tasks.finish(&attempt, AttemptResult::Completed(None));
        });
        assert_eq!(told, (after + 1..=after + LINES).collect::<Vec<_>>());
        assert!(ended);
        assert!(tasks.add_log(&attempt, LogStream::Log, "late").is_err());
    }
    check(&tasks);
}
