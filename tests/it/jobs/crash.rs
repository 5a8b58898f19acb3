use serde_json::{Value, json};

use super::{Db, User, metric};
use crate::support::{Process, TempDir, run, stderr, wait_until, wait_until_every};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

on_both! {
    a_job_that_crashes_its_worker_takes_no_other_with_it
    a_job_that_crashes_its_worker_each_time_fails
    a_job_that_pauses_is_not_blamed_for_the_loss_of_its_worker
}

pub(super) const QUICKLY: [(&str, &str); 2] = [("JOB_LEASE_SECONDS", "2"), ("WORKER_THREADS", "4")];

/// As `QUICKLY` has it: a lost job is claimed again within it.
const LEASE: Duration = Duration::from_secs(2);

/// For a machine that has other things to do.
const MARGIN: Duration = Duration::from_secs(2);

/// What a process has added, and what another one of the same database must finish.
fn dummy(user: &User, seconds: f64) -> String {
    let arguments = json!({ "delayMinSec": seconds, "delayMaxSec": seconds });
    user.add(json!({ "type": "dummy", "arguments": arguments }))
}

#[test]
fn a_killed_workers_job_is_run_again_by_another() {
    let Some(db) = Db::postgres() else { return };
    let first = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&first.client, "alice");
    let job = dummy(&alice, 3.0);
    alice.wait(&job, "processing");
    let second = Process::start(&db.dir, &db.variables(&QUICKLY));
    let killed = OffsetDateTime::now_utc();
    first.signal("KILL");
    let alice = User::of(&second.client, "alice");
    let done = alice.wait(&job, "completed");
    assert_eq!(done["attempts"], 2);
    let started = done["startedAt"].as_str().expect("a time");
    let started = OffsetDateTime::parse(started, &Rfc3339).expect("a time");
    let took = started - killed;
    assert!(took < LEASE + MARGIN, "{took}");
}

#[test]
fn what_sqlite_acknowledged_outlives_a_kill() {
    let db = Db::sqlite();
    let mut first = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&first.client, "alice");
    let jobs: Vec<_> = (0..50).map(|_| dummy(&alice, 0.01)).collect();
    first.signal("KILL");
    first.ended();
    let second = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&second.client, "alice");
    wait_until_every(Duration::from_millis(50), || {
        alice.stats()["completed"] == jobs.len()
    });
    for job in jobs {
        assert!(alice.job(&job)["attempts"].as_u64() <= Some(2));
    }
}

#[test]
fn a_frozen_worker_does_not_overwrite_what_another_did() {
    let Some(db) = Db::postgres() else { return };
    let first = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&first.client, "alice");
    let job = dummy(&alice, 1.5);
    alice.wait(&job, "processing");
    first.signal("STOP");
    let second = Process::start(&db.dir, &db.variables(&QUICKLY));
    let alice = User::of(&second.client, "alice");
    let done = alice.wait(&job, "completed");
    first.signal("CONT");
    // The woken one works again, and has had its chance to write.
    let other = dummy(&User::of(&first.client, "alice"), 0.01);
    alice.wait(&other, "completed");
    assert_eq!(alice.job(&job), done);
    assert_eq!(done["attempts"], 2);
}

#[test]
fn a_worker_that_cannot_listen_touches_no_job() {
    let Some(db) = Db::postgres() else { return };
    let front = Process::start(&db.dir, &db.variables(&[("ENABLE_QUEUE", "false")]));
    let alice = User::of(&front.client, "alice");
    let job = dummy(&alice, 0.0);
    let port = front.client.addr().port().to_string();
    let output = run(&TempDir::new(), &[], &db.variables(&[("PORT", &port)]));
    assert!(!output.status.success());
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
    assert_eq!(alice.events(&job), ["created"]);
}

#[test]
fn a_stopped_worker_gives_its_job_back_uncounted() {
    let db = Db::sqlite();
    let mut first = Process::start(&db.dir, &db.variables(&[]));
    let alice = User::of(&first.client, "alice");
    let job = dummy(&alice, 2.0);
    alice.wait(&job, "processing");
    first.signal("TERM");
    assert_eq!(first.ended().0, Some(0));
    let second = Process::start(&db.dir, &db.variables(&[]));
    let done = User::of(&second.client, "alice").wait(&job, "completed");
    assert_eq!(done["attempts"], 1);
}

/// A run of a job: its process, and its number there.
type Run = (u32, u32);

/// A process of `examples/witness.rs`, as a worker or as a front end only.
fn witness(db: &Db, lines: &TempDir, queue: &str) -> Process {
    let folder = lines.path().to_str().expect("UTF-8");
    let own = [
        ("WITNESS_DIR", folder),
        ("ENABLE_QUEUE", queue),
        ("METRICS", "true"),
    ];
    let variables = [&QUICKLY[..], &own].concat();
    Process::example("witness", &db.dir, &db.variables(&variables))
}

/// Who made each step of each job, in their order (see `examples/witness.rs`).
fn witnessed(lines: &TempDir) -> Vec<Vec<Run>> {
    let files = std::fs::read_dir(lines.path()).expect("a directory");
    let run = |line: &str| {
        let numbers = line.split(' ').map_while(|number| number.parse().ok());
        let numbers: Vec<u32> = numbers.collect();
        Some((*numbers.get(1)?, *numbers.get(2)?))
    };
    files
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text"))
        .map(|text| text.lines().filter_map(run).collect())
        .collect()
}

/// Two runs that each made two steps after the first one of the other: both held the job at once.
/// One that is frozen in the midst of a step can leave a single line too late.
fn is_overlap(steps: &[Run]) -> bool {
    let after = |one: Run, other: Run| {
        let since = steps.iter().skip_while(|step| **step != other);
        since.filter(|step| **step == one).count()
    };
    let both =
        |one: Run, other: Run| one != other && after(one, other) > 1 && after(other, one) > 1;
    steps
        .iter()
        .any(|one| steps.iter().any(|other| both(*one, *other)))
}

#[test]
fn two_runs_with_two_steps_after_each_others_first_are_an_overlap() {
    let (old, new) = ((1, 7), (2, 8));
    for fine in [
        &[old, old, new, new][..],
        &[old, new, old, new],
        &[new, new, old, new],
    ] {
        assert!(!is_overlap(fine), "{fine:?}");
    }
    for overlap in [&[old, new, old, new, old][..], &[old, new, new, old, old]] {
        assert!(is_overlap(overlap), "{overlap:?}");
    }
}

#[test]
fn no_job_is_run_by_two_live_workers_at_once() {
    let Some(db) = Db::postgres() else { return };
    let lines = TempDir::new();
    let front = witness(&db, &lines, "false");
    let alice = User::of(&front.client, "alice");
    let first = witness(&db, &lines, "true");
    let arguments = json!({ "steps": 30, "stepMs": 50 });
    let job = json!({ "type": "witness", "arguments": arguments, "maxAttempts": 10 });
    let count = 20;
    let bulk = json!({ "jobs": vec![job; count] });
    alice.post("/jobs/bulk", bulk).expect(201);
    wait_until(|| !witnessed(&lines).is_empty());
    first.signal("STOP");
    let second = witness(&db, &lines, "true");
    // What the frozen one had begun is taken over, and it wakes in the midst of it.
    let is_taken_over = |steps: &Vec<Run>| steps.iter().any(|step| step.0 != steps[0].0);
    wait_until(|| witnessed(&lines).iter().any(is_taken_over));
    first.signal("CONT");
    second.signal("KILL");
    let _third = witness(&db, &lines, "true");
    wait_until_every(Duration::from_millis(50), || {
        alice.stats()["completed"] == count
    });
    let jobs = witnessed(&lines);
    assert_eq!(jobs.len(), count);
    for steps in jobs {
        assert!(!is_overlap(&steps), "{steps:?}");
    }
}

/// It comes first each time, and crashes its worker in the midst of the others.
fn a_job_that_crashes_its_worker_takes_no_other_with_it(db: &Db) {
    let lines = TempDir::new();
    let front = witness(db, &lines, "false");
    let alice = User::of(&front.client, "alice");
    let innocent = json!({
        "type": "witness", "arguments": { "steps": 1, "stepMs": 10 }, "maxAttempts": 1
    });
    let count = 300;
    alice.add_bulk(count, &innocent);
    let crashes = json!({ "steps": 1, "stepMs": 10, "crashes": 3 });
    let culprit = alice.add(json!({
        "type": "witness", "arguments": crashes, "maxAttempts": 10, "priority": 100
    }));
    for _ in 0..3 {
        witness(db, &lines, "true").ended();
    }
    let _last = witness(db, &lines, "true");
    let ended = alice.settle();
    assert_eq!(ended, (count as u64 + 1, 0));
    // The first of its crashes may have come before its begin was written down.
    let attempts = alice.job(&culprit)["attempts"].as_u64();
    assert!(
        (3..=4).contains(&attempts.expect("a number")),
        "{attempts:?}"
    );
}

/// Adds a job that ends its worker in that step each time, and starts workers until it has failed; how many it ended.
fn crash_until_failed(db: &Db, lines: &TempDir, step: u32, step_ms: u32) -> (Value, usize) {
    let front = witness(db, lines, "false");
    let alice = User::of(&front.client, "alice");
    let crashes = json!({ "steps": step + 2, "stepMs": step_ms, "crashes": 99, "crashStep": step });
    let culprit = alice.add(json!({
        "type": "witness", "arguments": crashes, "maxAttempts": 1
    }));
    let mut crashed = 0;
    let mut worker = witness(db, lines, "true");
    while worker.ends_unless(|| alice.job(&culprit)["status"] == "failed") {
        crashed += 1;
        worker = witness(db, lines, "true");
    }
    let failed = "task_system_jobs_finished_total{type=\"witness\",status=\"failed\"}";
    assert_eq!(metric(&worker, failed), 1.0, "by who found it out");
    let mut job = alice.job(&culprit);
    job["events"] = json!(alice.events(&culprit));
    (job, crashed)
}

/// However few attempts it has: it did not fail. But it does not go on for ever, also where it crashes after a pause.
fn a_job_that_crashes_its_worker_each_time_fails(db: &Db) {
    let (lost, crashed) = crash_until_failed(db, &TempDir::new(), 1, 300);
    assert_eq!(crashed, 5);
    // The first time its begin may not have been written down yet.
    let attempts = lost["attempts"].as_u64().expect("a number") as usize;
    assert!((4..=5).contains(&attempts), "{attempts}");
    let why = format!("its worker was lost {attempts} times");
    assert_eq!(lost["error"]["message"], why);
    let mut expected = vec!["created"];
    expected.extend(["started", "retried"].repeat(attempts - 1));
    expected.extend(["started", "failed"]);
    assert_eq!(lost["events"], json!(expected));
}

/// By then nobody waits any more for it to be written that it is at work; so it is found out later.
#[test]
fn a_job_that_crashes_its_worker_long_after_its_begin_fails() {
    let (_, crashed) = crash_until_failed(&Db::sqlite(), &TempDir::new(), 5, 500);
    assert!((5..=8).contains(&crashed), "{crashed}");
}

/// Its executor is on no thread meanwhile.
fn a_job_that_pauses_is_not_blamed_for_the_loss_of_its_worker(db: &Db) {
    let lines = TempDir::new();
    let front = witness(db, &lines, "false");
    let alice = User::of(&front.client, "alice");
    let arguments = json!({ "steps": 1, "stepMs": 3_000 });
    let job = json!({ "type": "witness", "arguments": arguments, "maxAttempts": 1 });
    let count = 20;
    alice.add_bulk(count, &job);
    for losses in 0..6 {
        let worker = witness(db, &lines, "true");
        let sql = format!(
            "SELECT count(*) FROM jobs WHERE status = 2 AND paused = 1 AND losses = {losses}"
        );
        wait_until_every(Duration::from_millis(20), || {
            db.rows(&sql) == [count.to_string()]
        });
        worker.signal("KILL");
    }
    let _last = witness(db, &lines, "true");
    assert_eq!(alice.settle(), (count as u64, 0));
}
