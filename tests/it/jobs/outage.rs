use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::json;

use super::crash::QUICKLY;
use super::{Db, User, id};
use crate::support::{Cluster, Gate, Process, execute, id_of, wait_until, wait_until_every};

/// How often additions were acknowledged, and how often refused.
#[derive(Default)]
struct Count {
    taken: AtomicUsize,
    refused: AtomicUsize,
}

/// Adds jobs, `many` a request, until the gate opens; those that were acknowledged.
fn add(alice: &User, many: usize, count: &Count, end: &Gate) -> Vec<String> {
    let arguments = json!({ "delayMinSec": 0, "delayMaxSec": 0.3 });
    let job = json!({ "type": "dummy", "arguments": arguments, "maxAttempts": 20 });
    let mut added = Vec::new();
    while !end.is_open() {
        let reply = match many {
            1 => alice.post("/jobs", job.clone()),
            _ => alice.post("/jobs/bulk", json!({ "jobs": vec![job.clone(); many] })),
        };
        if reply.status == 503 {
            let reply = reply.expect_problem(503, "database_unavailable");
            assert!(reply.retry_after() > 0);
            count.refused.fetch_add(1, SeqCst);
        } else {
            let body = reply.expect(201).json();
            match body["jobs"].as_array() {
                Some(jobs) => added.extend(jobs.iter().map(id)),
                None => added.push(id(&body)),
            }
            count.taken.fetch_add(1, SeqCst);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    added
}

/// Opens the gate also when the test fails, so that the clients end.
struct AtTheEnd<'a>(&'a Gate);

impl Drop for AtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// Stops and starts the database under the clients, and sees that both are felt.
fn outage(cluster: &Cluster, server: &Process, count: &Count) {
    let grows = |what: &AtomicUsize, by: usize| {
        let before = what.load(SeqCst);
        wait_until(|| what.load(SeqCst) >= before + by);
    };
    grows(&count.taken, 20);
    cluster.go_away();
    grows(&count.refused, 4);
    // The Task System does not notice.
    let session = server.client.session("demo");
    let task = session.post("/demo/tasks/sample", json!({ "delayMs": 50 }));
    session.wait_status(&id_of(&task.expect(201)), "completed");
    cluster.come_back();
    grows(&count.taken, 20);
}

#[test]
fn a_database_that_is_stopped_and_started_under_load_loses_nothing() {
    let Some(cluster) = Cluster::start() else {
        return super::skip("PostgreSQL", "postgresql");
    };
    let db = Db::on(&cluster);
    let server = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&server.client, "alice");
    let (count, end) = (Count::default(), Gate::default());
    let added = std::thread::scope(|scope| {
        let _opener = AtTheEnd(&end);
        let client = |many| {
            let (alice, count, end) = (&alice, &count, &end);
            scope.spawn(move || add(alice, many, count, end))
        };
        let clients = [1, 1, 1, 5].map(client);
        for _ in 0..2 {
            outage(&cluster, &server, &count);
        }
        end.open();
        let added = clients.into_iter();
        added
            .flat_map(|c| c.join().expect("no panic"))
            .collect::<Vec<_>>()
    });
    assert_eq!(added.iter().collect::<HashSet<_>>().len(), added.len());
    // What was refused may have been added all the same; it runs too.
    wait_until_every(Duration::from_millis(50), || {
        let stats = alice.stats();
        stats["completed"] == stats["total"]
    });
    for job in &added {
        assert_eq!(alice.job(job)["status"], "completed");
    }
}

/// For longer than a statement waits for a lock.
#[test]
fn a_locked_table_is_a_database_that_is_away() {
    let Some(db) = Db::postgres() else { return };
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let lock = "BEGIN; LOCK TABLE jobs; SELECT pg_sleep(7); COMMIT";
    std::thread::scope(|scope| {
        scope.spawn(|| execute(&db.url, lock));
        wait_until_every(Duration::from_millis(10), || {
            let reply = alice.post("/jobs", json!({ "type": "quick" }));
            if reply.status == 201 {
                return false;
            }
            let refused = reply.expect_problem(503, "database_unavailable");
            assert_eq!(refused.header("Retry-After"), Some("2"));
            true
        });
    });
    alice.wait(&alice.add_type("quick"), "completed");
}
