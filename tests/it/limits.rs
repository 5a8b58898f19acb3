use std::collections::BTreeMap;
use std::sync::Barrier;

use serde_json::json;

use crate::support::{Client, Reply, TestServer, wait_until};

const THREADS: usize = 16;

/// The same from many threads at once, some times each; how often each status came.
fn at_once(times: usize, ask: impl Fn(usize) -> Reply + Sync) -> BTreeMap<u16, usize> {
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ask, barrier) = (&ask, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let replies = (0..times).map(|_| ask(thread).status);
                    replies.collect::<Vec<_>>()
                })
            })
            .collect();
        let mut counts = BTreeMap::new();
        for thread in threads {
            for status in thread.join().expect("every request has its answer") {
                *counts.entry(status).or_default() += 1;
            }
        }
        counts
    })
}

fn stat(client: &Client, name: &str) -> u64 {
    client.get("/tasks/stats").json()["stats"][name]
        .as_u64()
        .expect("a number")
}

#[test]
fn a_session_takes_its_last_task_once() {
    let server = TestServer::start(&[("MAX_TASKS_PER_SESSION", "50")]);
    let counts = at_once(10, |_| server.post("/tasks", json!({ "name": "n" })));
    assert_eq!(counts, BTreeMap::from([(201, 50), (429, 110)]));
    assert_eq!(stat(&server, "total"), 50);
}

#[test]
fn the_queue_takes_its_last_task_once_and_gives_every_place_back() {
    let server = TestServer::start(&[("MAX_ACTIVE_TASKS", "20")]);
    let held = json!({ "name": "n", "type": "held", "start": true });
    let session = |thread: usize| server.session(&format!("s{}", thread % 4));
    let counts = at_once(5, |thread| session(thread).post("/tasks", held.clone()));
    assert_eq!(counts, BTreeMap::from([(201, 20), (503, 60)]));
    let all = |name| (0..4).map(|i| stat(&session(i), name)).sum::<u64>();
    assert_eq!(all("total"), 20, "nothing is half created");
    server.gate.open();
    wait_until(|| all("completed") == 20);
    let quick = json!({ "name": "n", "type": "quick", "start": true });
    for _ in 0..20 {
        wait_until(|| server.post("/tasks", quick.clone()).status == 201);
    }
}

#[test]
fn sessions_with_work_fill_every_seat_and_no_more() {
    let server = TestServer::start(&[("MAX_SESSIONS", "8")]);
    let held = json!({ "name": "n", "type": "held", "start": true });
    let counts = at_once(1, |thread| {
        let session = server.session(&format!("s{thread}"));
        session.post("/tasks", held.clone())
    });
    assert_eq!(counts, BTreeMap::from([(201, 8), (503, 8)]));
    server.gate.open();
    let other = server.session("after");
    wait_until(|| other.post("/tasks", json!({ "name": "n" })).status == 201);
}

#[test]
fn the_store_is_never_overfull_and_has_room_again() {
    let variables = [("MAX_STORE_BYTES", "1048576"), ("MAX_CANCELLED_TASKS", "0")];
    let server = TestServer::start(&variables);
    let big = json!({ "name": "n", "metadata": { "fill": "x".repeat(30_000) } });
    let session = |thread: usize| server.session(&format!("s{}", thread % 4));
    let counts = at_once(5, |thread| session(thread).post("/tasks", big.clone()));
    let made = counts[&201];
    assert!((25..35).contains(&made), "{counts:?}");
    assert_eq!(made + counts[&503], 5 * THREADS);
    let total: u64 = (0..4).map(|i| stat(&session(i), "total")).sum();
    assert_eq!(total, made as u64);
    for client in (0..4).map(session) {
        for task in client.get("/tasks").json()["tasks"]
            .as_array()
            .expect("tasks")
        {
            let id = task["id"].as_str().expect("an id");
            client.act(&format!("/tasks/{id}/cancel")).expect(200);
        }
        client.act("/tasks/cleanup/run").expect(200);
    }
    let again = at_once(5, |thread| session(thread).post("/tasks", big.clone()));
    assert_eq!(again[&201], made, "all of its room is back");
}

#[test]
fn streams_are_counted_and_their_places_come_back() {
    let server = TestServer::start(&[("MAX_STREAMS", "5")]);
    let barrier = Barrier::new(THREADS);
    let open: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    server.call("GET", "/tasks/events").try_open()
                })
            })
            .collect();
        let threads = threads.into_iter();
        threads
            .filter_map(|thread| thread.join().expect("an answer"))
            .collect()
    });
    assert_eq!(open.len(), 5);
    drop(open);
    for _ in 0..2 {
        let mut all = Vec::new();
        wait_until(|| {
            all.extend(server.call("GET", "/tasks/events").try_open());
            all.len() == 5
        });
        assert!(server.call("GET", "/tasks/events").try_open().is_none());
    }
}
