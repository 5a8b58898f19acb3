use std::thread;

use serde_json::{Value, json};

use super::{Db, User, once, waiting};

on_both! {
    counts_equal_a_recount_whatever_happens
    the_last_versions_database_is_brought_up_to_date
}

/// What the jobs themselves say, as user, status and number.
const RECOUNT: &str = "SELECT coalesce(user_id, ''), kind, CASE WHEN status < 3 THEN 1 ELSE status END AS s, count(*) \
     FROM jobs GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";

/// What is kept of it.
fn counted(db: &Db) -> Vec<String> {
    let unfolded = match db.is_sqlite() {
        true => "",
        false => "UNION ALL SELECT user_id, kind, status, change FROM job_count_changes",
    };
    db.rows(&format!(
        "SELECT user_id, kind, status, sum(jobs) FROM \
         (SELECT user_id, kind, status, jobs FROM job_counts {unfolded}) AS c \
         GROUP BY 1, 2, 3 HAVING sum(jobs) <> 0 ORDER BY 1, 2, 3"
    ))
}

fn counts_equal_a_recount_whatever_happens(db: &Db) {
    let server = db.start(&[("WORKER_THREADS", "4")]);
    let fails =
        json!({ "type": "sample", "maxAttempts": 1, "arguments": { "delayMs": 0, "failAt": 0 } });
    thread::scope(|scope| {
        for name in ["alice", "bob", "carol"] {
            let (user, fails) = (User::of(&server.client, name), &fails);
            scope.spawn(move || {
                for n in 0..40 {
                    user.add_bulk(3, &once(0.0));
                    user.add(fails.clone());
                    let job = user.add(waiting(0.05 * f64::from(n % 3)));
                    let keyed = json!({ "type": "dummy", "uniqueKey": format!("{}", n % 5) });
                    user.post("/jobs", keyed);
                    user.act(&format!("/jobs/{job}/cancel"));
                    if n % 2 == 0 {
                        user.act(&format!("/jobs/{job}/retry"));
                    }
                }
            });
        }
    });
    for name in ["alice", "bob", "carol"] {
        User::of(&server.client, name).settle();
    }
    assert_eq!(counted(db), db.rows(RECOUNT));
    // Whoever adds, changes or deletes them, and whether or not the changes are folded meanwhile.
    db.execute(
        "INSERT INTO jobs (id, user_id, kind, ready, max_attempts, run_at, created_at, updated_at, trail) \
         VALUES ('00000000-0000-7000-8000-000000000001', 'carol', 'elsewhere', 1, 1, 1, 1, 1, '')",
    );
    assert_eq!(counted(db), db.rows(RECOUNT));
    db.execute("UPDATE jobs SET status = 4 WHERE user_id = 'bob' AND status = 3");
    assert_eq!(counted(db), db.rows(RECOUNT));
    db.execute("DELETE FROM jobs WHERE user_id = 'carol'");
    assert_eq!(counted(db), db.rows(RECOUNT));
    assert!(counted(db).iter().all(|row| !row.starts_with("carol")));
    let stats = User::admin(&server.client).stats();
    let total: u64 = ["completed", "failed", "cancelled"]
        .map(|status| stats[status].as_u64().expect("a number"))
        .iter()
        .sum();
    assert_eq!(stats["total"], total);
}

/// The tables of the last version with jobs in every state, and its notes of what was applied.
fn fill_as_the_last_version(db: &Db) {
    let (jobs, receipts) = match db.is_sqlite() {
        true => (
            include_str!("../../../migrations/sqlite/2026-11-24-000000_jobs/up.sql"),
            include_str!("../../../migrations/sqlite/2026-11-24-000001_job_receipts/up.sql"),
        ),
        false => (
            include_str!("../../../migrations/postgres/2026-11-24-000000_jobs/up.sql"),
            include_str!("../../../migrations/postgres/2026-11-24-000001_job_receipts/up.sql"),
        ),
    };
    db.execute(jobs);
    db.execute(receipts);
    db.execute(
        "CREATE TABLE __diesel_schema_migrations (version VARCHAR(50) PRIMARY KEY NOT NULL, \
         run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP); \
         INSERT INTO __diesel_schema_migrations (version) VALUES ('20261124000000'), ('20261124000001')",
    );
    let now = time::OffsetDateTime::now_utc().unix_timestamp() * 1_000;
    let ended = format!("{now}, NULL, {now}");
    for (n, user, status, more) in [
        (1, "'alice'", 1, "NULL, NULL, NULL"),
        (2, "'alice'", 2, "1000, 2000, NULL"),
        (3, "'alice'", 3, &ended),
        (4, "'bob'", 4, &ended),
        (5, "NULL", 5, &ended),
    ] {
        db.execute(&format!(
            "INSERT INTO jobs (id, user_id, kind, status, attempts, max_attempts, run_at, created_at, updated_at, \
             claim, trail, arguments, started_at, lease_until, completed_at) VALUES \
             ('0193a000-0000-7000-8000-00000000000{n}', {user}, 'dummy', {status}, {}, 3, 1, 1, 1, {status}, \
              '1 1000 created 0 0 \n', '{{\"delayMinSec\":0,\"delayMaxSec\":0}}', {more})",
            u8::from(status > 1)
        ));
    }
}

fn the_last_versions_database_is_brought_up_to_date(db: &Db) {
    fill_as_the_last_version(db);
    let server = db.start(&[]);
    let alice = User::of(&server.client, "alice");
    assert_eq!(alice.settle(), (3, 0));
    // What a worker of that version had begun has been lost, and was run again.
    let job: Value = alice.job("0193a000-0000-7000-8000-000000000002");
    assert_eq!(job["attempts"], 2, "{job}");
    let admin = User::admin(&server.client);
    let stats = admin.stats();
    assert_eq!(
        [&stats["completed"], &stats["failed"], &stats["cancelled"]],
        [3, 1, 1]
    );
    assert_eq!(counted(db), db.rows(RECOUNT));
    let list = admin.get("/jobs?status=failed").expect(200).json();
    assert_eq!(list["jobs"][0]["userId"], "bob");
    assert_eq!(db.rows("SELECT count(*) FROM jobs_readable"), ["5"]);
    let page = admin.get("/jobs").expect(200).json();
    assert_eq!(
        (&page["total"], &page["totalIsExact"]),
        (&json!(5), &json!(true))
    );
}
