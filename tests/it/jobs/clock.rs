use serde_json::{Value, json};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Db, User};
use crate::support::{Process, execute, wait_until};

const DAY: Duration = Duration::from_secs(86_400);

/// Long enough for a busy machine to renew in time.
const LEASE: (&str, &str) = ("JOB_LEASE_SECONDS", "4");

const FRONT: (&str, &str) = ("ENABLE_QUEUE", "false");

/// What makes a process believe in another time.
fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let mut found = folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .filter(|path| path.exists());
    let found = found.next().map(|path| path.display().to_string());
    if found.is_none() {
        super::skip("faketime", "faketime");
    }
    found
}

/// A process of the database whose system clock is off.
fn skewed(db: &Db, library: &str, by: &str, more: &[(&str, &str)]) -> Process {
    let fake = [
        ("LD_PRELOAD", library),
        ("FAKETIME", by),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let process = Process::start(&db.dir, &db.variables(&[&fake[..], more].concat()));
    // It is: a task's times are its process's.
    let session = process.client.session("clock");
    let task = session.task(&session.create(json!({ "name": "What time is it?" })));
    let there = task["createdAt"].as_u64().expect("milliseconds");
    let here = OffsetDateTime::now_utc().unix_timestamp() as u64 * 1_000;
    assert!(there.abs_diff(here) > 20 * 3_600_000, "{by}: {task}");
    process
}

fn at(job: &Value, field: &str) -> OffsetDateTime {
    let text = job[field].as_str().expect("a time");
    OffsetDateTime::parse(text, &Rfc3339).expect("a time")
}

fn wait_seconds(seconds: f64) -> Value {
    let arguments = json!({ "delayMinSec": seconds, "delayMaxSec": seconds });
    json!({ "type": "dummy", "arguments": arguments })
}

#[test]
fn a_jobs_time_comes_by_the_databases_clock() {
    let Some(library) = faketime() else { return };
    for (front, worker) in [("+1d", "-1d"), ("-1d", "+1d")] {
        let Some(db) = Db::postgres() else { return };
        let front = skewed(&db, &library, front, &[FRONT]);
        let _worker = skewed(&db, &library, worker, &[]);
        let alice = User::of(&front.client, "alice");
        let delayed = |seconds: f64| {
            let mut body = wait_seconds(0.0);
            body["delaySec"] = json!(seconds);
            alice.add(body)
        };
        // A worker a day ahead would run it too early, one behind never within the test.
        let (later, soon) = (delayed(3_600.0), delayed(1.5));
        let done = alice.wait(&soon, "completed");
        assert_eq!(
            at(&done, "runAt") - at(&done, "createdAt"),
            Duration::from_millis(1_500)
        );
        assert!(at(&done, "startedAt") >= at(&done, "runAt"), "{done}");
        assert!(at(&done, "completedAt") >= at(&done, "startedAt"), "{done}");
        let off = OffsetDateTime::now_utc() - at(&done, "createdAt");
        assert!(off.unsigned_abs() < DAY / 24, "{off}");
        assert_eq!(alice.job(&later)["attempts"], 0);
    }
}

#[test]
fn a_lease_holds_and_ends_by_the_databases_clock() {
    let Some(library) = faketime() else { return };
    for (holder, other) in [("+1d", "-1d"), ("-1d", "+1d")] {
        let Some(db) = Db::postgres() else { return };
        let front = Process::start(&db.dir, &db.variables(&[FRONT]));
        let alice = User::of(&front.client, "alice");
        let holder = skewed(&db, &library, holder, &[LEASE]);
        // One that outlasts its lease twice, and one that its holder does not live to end.
        let [kept, lost] = [6.0, 10.0].map(|seconds| alice.add(wait_seconds(seconds)));
        alice.wait(&kept, "processing");
        alice.wait(&lost, "processing");
        let _other = skewed(&db, &library, other, &[LEASE]);
        assert_eq!(alice.wait(&kept, "completed")["attempts"], 1);
        assert_eq!(alice.job(&lost)["attempts"], 1);
        holder.signal("KILL");
        assert_eq!(alice.wait(&lost, "completed")["attempts"], 2);
    }
}

#[test]
fn a_job_is_deleted_by_the_databases_clock() {
    let Some(library) = faketime() else { return };
    let Some(db) = Db::postgres() else { return };
    // Their ids say that they are older than they are.
    let front = skewed(&db, &library, "-2d", &[]);
    let alice = User::of(&front.client, "alice");
    let [old, young] = [(); 2].map(|()| {
        let id = alice.add(wait_seconds(0.0));
        alice.wait(&id, "completed");
        id
    });
    let age = "completed_at = completed_at - 2 * 86400000";
    execute(
        &db.url,
        &format!("UPDATE jobs SET {age} WHERE id = '{old}'"),
    );
    // And to this one they look older still.
    let _worker = skewed(&db, &library, "+2d", &[("JOB_RETENTION_DAYS", "1")]);
    wait_until(|| alice.get(&format!("/jobs/{old}")).status == 404);
    alice.job(&young);
}

/// SQLite's clock is the system's. Leases and delays go by the time that passes, whatever it is set to.
#[test]
fn a_clock_that_is_set_runs_no_job_twice_and_keeps_none_waiting() {
    let Some(library) = faketime() else { return };
    let db = Db::sqlite();
    let clock = db.dir.file("clock");
    let set = |to: &str| std::fs::write(&clock, to).expect("the clock is set");
    set("+0");
    let fake = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("UTF-8")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        LEASE,
    ];
    let process = Process::start(&db.dir, &db.variables(&fake));
    let alice = User::of(&process.client, "alice");
    for to in ["+1h", "-1h", "+0"] {
        let running = alice.add(wait_seconds(3.0));
        alice.wait(&running, "processing");
        let mut delayed = wait_seconds(0.0);
        delayed["delaySec"] = json!(2);
        let delayed = alice.add(delayed);
        set(to);
        assert_eq!(alice.wait(&running, "completed")["attempts"], 1, "{to}");
        alice.wait(&delayed, "completed");
    }
}
