use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Db, User, id, token};
use crate::support::{Client, Process, Reply, execute, succeeds, wait_until, wait_until_every};

on_both! {
    a_repeat_is_answered_as_the_first_also_after_a_restart
    requests_that_race_with_one_key_add_one_job
    a_bulk_is_repeated_whole
    what_was_found_is_repeated_and_what_was_refused_is_not
    a_client_that_asks_until_it_is_answered_adds_each_job_once
}

/// Adds a job that waits, with an idempotency key.
fn ask(server: &Client, key: &str, delay: u32) -> Reply {
    ask_for(server, key, json!({ "type": "dummy", "delaySec": delay }))
}

fn ask_for(server: &Client, key: &str, job: Value) -> Reply {
    let call = User::of(server, "alice").call("POST", "/jobs");
    call.header("Idempotency-Key", key).json(&job).send()
}

fn is_repeat(reply: &Reply) -> bool {
    reply.header("Idempotency-Replayed") == Some("true")
}

fn total(server: &Client) -> u64 {
    let total = User::of(server, "alice").stats()["total"].as_u64();
    total.expect("a number")
}

fn a_repeat_is_answered_as_the_first_also_after_a_restart(db: &Db) {
    let server = db.serve();
    let first = ask(&server, "k", 600).expect(201);
    drop(server);
    let server = db.serve();
    let again = ask(&server, "k", 600).expect(201);
    assert!(!is_repeat(&first) && is_repeat(&again));
    assert_eq!(
        (first.header("Location"), &first.body),
        (again.header("Location"), &again.body)
    );
    ask(&server, "k", 601).expect_problem(422, "idempotency_key_reused");
    assert_eq!(total(&server), 1);
}

fn requests_that_race_with_one_key_add_one_job(db: &Db) {
    // SQLite has one process at a time.
    let is_shared = db.storage == "postgres";
    let servers: Vec<_> = (0..1 + u8::from(is_shared)).map(|_| db.serve()).collect();
    let rounds = 20;
    for round in 0..rounds {
        let key = format!("k{round}");
        let mut job = json!({ "type": "dummy", "delaySec": 600 });
        // Those with a unique key meet there already.
        if round % 2 == 1 {
            job["uniqueKey"] = json!(key);
        }
        let ask = |server| ask_for(server, &key, job.clone()).expect(201);
        let replies: Vec<Reply> = std::thread::scope(|scope| {
            let ask = &ask;
            let racing = servers.iter().cycle().take(8);
            let racing: Vec<_> = racing
                .map(|server| scope.spawn(move || ask(server)))
                .collect();
            let replies = racing.into_iter().map(|one| one.join());
            replies.map(|reply| reply.expect("an answer")).collect()
        });
        let firsts = replies.iter().filter(|reply| !is_repeat(reply)).count();
        assert_eq!(firsts, 1, "round {round}");
        assert!(replies.iter().all(|reply| reply.body == replies[0].body));
    }
    assert_eq!(total(&servers[0]), rounds);
}

fn a_bulk_is_repeated_whole(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let ask = || {
        let jobs = vec![json!({ "type": "dummy", "delaySec": 600 }); 100];
        let call = alice.call("POST", "/jobs/bulk");
        call.header("Idempotency-Key", "k")
            .json(&json!({ "jobs": jobs }))
            .send()
    };
    let (first, again) = (ask().expect(201), ask().expect(201));
    assert!(!is_repeat(&first) && is_repeat(&again));
    assert_eq!(first.body, again.body);
    assert_eq!(total(&server), 100);
    // One that finds all of its jobs there already is a first request, too.
    let held = json!({ "type": "dummy", "delaySec": 600, "uniqueKey": "u" });
    alice.post("/jobs", held.clone()).expect(201);
    let finds = || {
        let call = alice.call("POST", "/jobs/bulk");
        let body = json!({ "jobs": [held] });
        call.header("Idempotency-Key", "finds").json(&body).send()
    };
    assert!(!is_repeat(&finds().expect(201)));
    assert!(is_repeat(&finds().expect(201)));
    // The same key on another path is another request.
    let one = alice
        .call("POST", "/jobs")
        .header("Idempotency-Key", "k")
        .json(&json!({ "type": "dummy" }))
        .send();
    one.expect_problem(422, "idempotency_key_reused");
}

fn what_was_found_is_repeated_and_what_was_refused_is_not(db: &Db) {
    let server = db.serve();
    let alice = User::of(&server, "alice");
    let body = json!({ "type": "dummy", "delaySec": 600, "uniqueKey": "u" });
    let holder = alice.post("/jobs", body.clone()).expect(201).json();
    ask_for(&server, "k", json!({ "type": "nobody's" })).expect(400);
    let found = ask_for(&server, "k", body.clone()).expect(200);
    assert_eq!(id(&found.json()), id(&holder));
    // That its unique key is free by now does not matter: it was answered.
    alice
        .act(&format!("/jobs/{}/cancel", id(&holder)))
        .expect(200);
    let again = ask_for(&server, "k", body.clone()).expect(200);
    assert!(!is_repeat(&found) && is_repeat(&again));
    assert_eq!(found.body, again.body);
    let new = ask_for(&server, "other", body).expect(201);
    assert!(id(&new.json()) != id(&holder));
}

/// Where the job is that a request has added, or had added before; `None`: no answer has come.
fn try_ask(address: SocketAddr, key: &str, body: &str) -> Option<String> {
    let mut socket = TcpStream::connect(address).ok()?;
    let request = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        token("alice", None),
        body.len()
    );
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let head = answer.strip_prefix("HTTP/1.1 201 ")?;
    let mut lines = head.lines();
    lines.find_map(|line| line.strip_prefix("Location: ").map(str::to_owned))
}

/// However often the server is killed between the commit and the answer.
fn a_client_that_asks_until_it_is_answered_adds_each_job_once(db: &Db) {
    let (clients, each, kills) = (4, 50, 6);
    let start = || Process::start(&db.dir, &db.variables(&[("ENABLE_QUEUE", "false")]));
    let mut process = start();
    let address = Mutex::new(process.client.addr());
    let answered = AtomicU64::new(0);
    let ask = |key: String| {
        let begun = Instant::now();
        loop {
            let address = *address.lock().expect("no poison");
            if let Some(place) = try_ask(address, &key, r#"{"type":"dummy"}"#) {
                answered.fetch_add(1, SeqCst);
                return place;
            }
            assert!(begun.elapsed().as_secs() < 60, "no answer to {key}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let places: HashSet<String> = std::thread::scope(|scope| {
        let ask = &ask;
        let asking = |client| move || (0..each).map(|n| ask(format!("{client}-{n}"))).collect();
        let asking: Vec<_> = (0..clients).map(|c| scope.spawn(asking(c))).collect();
        for kill in 1..=kills {
            wait_until(|| answered.load(SeqCst) >= kill * clients * each / (kills + 1));
            process.signal("KILL");
            process.ended();
            process = start();
            *address.lock().expect("no poison") = process.client.addr();
        }
        let places = asking.into_iter().map(|one| one.join());
        let places = places.map(|places: Result<Vec<_>, _>| places.expect("all answered"));
        places.flatten().collect()
    });
    assert_eq!(places.len() as u64, clients * each);
    assert_eq!(total(&process.client), clients * each);
}

#[test]
fn after_a_day_a_key_is_free_again() {
    let Some(db) = Db::postgres() else { return };
    let server = db.serve();
    let first = ask(&server, "k", 600).expect(201);
    execute(
        &db.url,
        "UPDATE job_receipts SET at = at - 86400000 + 60000",
    );
    assert!(is_repeat(&ask(&server, "k", 600).expect(201)));
    execute(&db.url, "UPDATE job_receipts SET at = at - 60000");
    let new = ask(&server, "k", 600).expect(201);
    assert!(!is_repeat(&new) && id(&new.json()) != id(&first.json()));
    assert!(is_repeat(&ask(&server, "k", 600).expect(201)));
    // What is over is deleted with a worker's first look.
    execute(&db.url, "UPDATE job_receipts SET at = at - 86400000");
    let _worker = db.serve();
    wait_until_every(Duration::from_millis(50), || {
        // Divides by zero as long as there is one.
        let sql = "SELECT 1 / (count(*) = 0)::int FROM job_receipts";
        succeeds(&db.url, sql)
    });
}

/// A stored response that somebody holds waits for its deletion; neither the other ones nor jobs wait with it.
#[test]
fn a_locked_stored_response_holds_nobody_up() {
    let Some(db) = Db::postgres() else { return };
    let front = db.serve_with(&[("ENABLE_QUEUE", "false")], |_| {});
    ask(&front, "held", 600).expect(201);
    ask(&front, "free", 600).expect(201);
    execute(&db.url, "UPDATE job_receipts SET at = at - 86400000");
    let has = |key: &str| {
        let sql = format!("SELECT 1 / count(*) FROM job_receipts WHERE key = '{key}'");
        succeeds(&db.url, &sql)
    };
    // As long as a statement may take.
    let hold = "BEGIN; SELECT 1 FROM job_receipts WHERE key = 'held' FOR UPDATE; \
                SELECT pg_sleep(10); COMMIT";
    std::thread::scope(|scope| {
        let holder = scope.spawn(|| succeeds(&db.url, hold));
        let is_held = "SELECT 1 / count(*) FROM pg_stat_activity \
                   WHERE wait_event = 'PgSleep' AND datname = current_database()";
        wait_until(|| succeeds(&db.url, is_held));
        let worker = db.serve();
        wait_until(|| !has("free"));
        let alice = User::of(&worker, "alice");
        alice.wait(&alice.add_type("dummy"), "completed");
        assert!(!holder.is_finished() && has("held"));
    });
}
