use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::crash::QUICKLY;
use super::{Db, User, metric, once, waiting};
use crate::support::{Process, Proxy, wait_until, wait_until_every};

const METRICS: (&str, &str) = ("METRICS", "true");

/// What only one statement has in it.
const FINISH: &str = "xmessage";
const CLAIM: &str = "SET status = 2";
const RENEW: &str = "+ xlease";

/// A process that reaches its database through a proxy.
struct Scene {
    db: Db,
    proxy: Proxy,
    url: String,
}

impl Scene {
    fn new() -> Option<Scene> {
        let db = Db::postgres()?;
        let (proxy, url) = Proxy::before(&db.url);
        Some(Scene { db, proxy, url })
    }

    fn start(&self) -> Process {
        let own = [("DATABASE_URL", &*self.url), METRICS];
        self.db.start(&[&QUICKLY[..], &own].concat())
    }
}

fn is_away(process: &Process) -> bool {
    metric(process, "task_system_jobs_database_away ") == 1.0
}

fn health(process: &Process) -> u16 {
    process.client.get("/health").status
}

/// Ends what others do in a loop, also where a test fails meanwhile.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Adds one after the other until one is taken after `end`; when each began, how long it took, and whether it was taken.
fn add_until(alice: &User, end: &AtomicBool) -> Vec<(Instant, Duration, bool)> {
    let start = Instant::now();
    let mut answers: Vec<(Instant, Duration, bool)> = Vec::new();
    while !end.load(SeqCst) || !answers.last().is_some_and(|answer| answer.2) {
        let begun = Instant::now();
        let status = alice.post("/jobs", once(0.0)).status;
        assert!(matches!(status, 201 | 503), "{status}");
        assert!(start.elapsed() < Duration::from_secs(60), "never taken");
        answers.push((begun, begun.elapsed(), status == 201));
        std::thread::sleep(Duration::from_millis(20));
    }
    answers
}

#[test]
fn a_database_host_that_vanishes_is_done_without_and_found_again() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.start();
    let alice = User::of(&server.client, "alice");
    let bob = User::of(&server.client, "bob");
    alice.add_bulk(10, &once(4.0));
    wait_until(|| alice.stats()["processing"] == 10);
    let (end, was_away, was_ill) = (
        AtomicBool::new(false),
        AtomicBool::new(false),
        AtomicBool::new(false),
    );
    let answers = std::thread::scope(|scope| {
        let ends = Ends(&end);
        let adding = scope.spawn(|| add_until(&bob, &end));
        let vanished = Instant::now();
        scene.proxy.silence_open();
        // Told while it lasts.
        wait_until(|| {
            was_away.fetch_or(is_away(&server), SeqCst);
            was_ill.fetch_or(health(&server) == 503, SeqCst);
            let is_back = !is_away(&server) && health(&server) == 200;
            is_back && was_away.load(SeqCst) && was_ill.load(SeqCst)
        });
        assert!(vanished.elapsed() < Duration::from_secs(20));
        drop(ends);
        let answers = adding.join().expect("no panic");
        let taken = |answer: &&(Instant, Duration, bool)| answer.2 && answer.0 > vanished;
        let first = answers.iter().find(taken).expect("an addition");
        let after = (first.0 + first.1).duration_since(vanished);
        assert!(after < Duration::from_secs(20), "{after:?}");
        answers
    });
    let longest = answers.iter().map(|answer| answer.1).max();
    assert!(longest < Some(Duration::from_secs(12)), "{longest:?}");
    assert_eq!(alice.settle(), (10, 0));
    assert_eq!(bob.settle().1, 0);
}

/// One duty's connection hangs for good, while the others work.
fn one_connection_hangs(text: &str, who: &str, attempts: &[&str]) {
    let Some(scene) = Scene::new() else { return };
    let server = scene.start();
    let alice = User::of(&server.client, "alice");
    // Every duty has said its statements once.
    alice.add_bulk(1, &once(1.0));
    assert_eq!(alice.settle(), (1, 0));
    let jobs = 30;
    alice.add_bulk(jobs, &once(2.0));
    wait_until(|| alice.stats()["processing"] == jobs);
    scene.proxy.silence_who_said(text);
    // Others are served.
    let begun = Instant::now();
    alice.add_bulk(1, &once(0.0));
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    let told = format!("The {who} waits for the database");
    wait_until(|| server.has(&told));
    let again = format!("The {who} can use the database again, after");
    wait_until(|| server.has(&again));
    assert_eq!(alice.settle(), (jobs as u64 + 2, 0));
    assert!(!is_away(&server));
    let seen = scene
        .db
        .rows("SELECT DISTINCT attempts FROM jobs ORDER BY 1");
    assert_eq!(seen, attempts);
}

#[test]
fn a_completers_connection_that_hangs_costs_no_attempt() {
    one_connection_hangs(FINISH, "completer", &["1"]);
}

#[test]
fn a_fetchers_connection_that_hangs_costs_no_attempt() {
    one_connection_hangs(CLAIM, "fetcher", &["1"]);
}

#[test]
fn a_heartbeats_connection_that_hangs_costs_no_attempt() {
    one_connection_hangs(RENEW, "heartbeat", &["1"]);
}

/// Each new connection of the completer hangs as well, for longer than the lease.
#[test]
fn a_job_whose_end_waits_to_be_written_is_not_run_again() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.start();
    let other = scene.start();
    let alice = User::of(&server.client, "alice");
    let jobs = 10;
    alice.add_bulk(jobs, &once(1.0));
    wait_until(|| alice.stats()["processing"] == jobs);
    let begun = Instant::now();
    scene.proxy.silence_all_who_say(Some(FINISH));
    wait_until_every(Duration::from_millis(50), || {
        begun.elapsed() > Duration::from_secs(5)
    });
    assert!(is_away(&server) || is_away(&other));
    scene.proxy.silence_all_who_say(None);
    assert_eq!(alice.settle(), (jobs as u64, 0));
    assert_eq!(scene.db.rows("SELECT DISTINCT attempts FROM jobs"), ["1"]);
}

/// A lease that was over is not renewed: what ran out here is given up, though the row is as it was.
#[test]
fn a_lease_is_not_renewed_after_it_was_over() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.start();
    let alice = User::of(&server.client, "alice");
    let jobs = 10;
    alice.add_bulk(jobs, &once(3.0));
    wait_until(|| alice.stats()["processing"] == jobs);
    scene.proxy.pause();
    // The freeze itself.
    std::thread::sleep(Duration::from_secs(4));
    scene.proxy.go_on();
    assert_eq!(alice.settle(), (jobs as u64, 0));
    // Each was given back when its lease was over, and begun once more; nothing was lost.
    let seen = scene
        .db
        .rows("SELECT DISTINCT claim > 2, attempts, losses FROM jobs");
    assert_eq!(seen, ["t|1|0"]);
}

#[test]
fn an_outage_is_told_once_and_counted() {
    let Some(scene) = Scene::new() else { return };
    let server = scene.start();
    let refused = AtomicUsize::new(0);
    let end = AtomicBool::new(false);
    let told = |text: &str| {
        server
            .log()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&end);
        for n in 0..16 {
            let alice = User::of(&server.client, &format!("user{n}"));
            let (refused, end) = (&refused, &end);
            scope.spawn(move || {
                let answers = add_until(&alice, end);
                let failed = answers.iter().filter(|answer| !answer.2).count();
                refused.fetch_add(failed, SeqCst);
            });
        }
        let alice = User::of(&server.client, "alice");
        alice.add_bulk(1, &once(0.0));
        scene.proxy.refuse();
        // The outage itself.
        std::thread::sleep(Duration::from_secs(5));
        scene.proxy.serve();
        wait_until(|| told("The database serves requests again") == 1);
    });
    assert!(refused.load(SeqCst) > 50, "{refused:?}");
    let log = server.log();
    let loud = log
        .iter()
        .filter(|line| line.contains("[WARN]") || line.contains("[ERROR]"));
    let loud: Vec<_> = loud.collect();
    assert!((1..=12).contains(&loud.len()), "{loud:#?}");
    assert_eq!(told("Requests are refused"), 1, "{loud:#?}");
    let line = log
        .iter()
        .find(|line| line.contains("serves requests again"));
    let line = line.expect("the end is told");
    let mut count = line
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse::<usize>().ok());
    assert!(count.next_back() > Some(50), "{line}");
    assert!(scene.proxy.accepted() > 10);
}

#[test]
fn a_stop_while_the_database_is_silent_ends_in_time_and_says_what_is_left() {
    let Some(scene) = Scene::new() else { return };
    let mut server = scene.start();
    let alice = User::of(&server.client, "alice");
    alice.add_bulk(10, &waiting(60.0));
    wait_until(|| alice.stats()["processing"] == 10);
    scene.proxy.pause();
    server.signal("TERM");
    let (code, took) = server.ended();
    assert_eq!(code, Some(0), "{:?}", server.log());
    assert!(
        took < Duration::from_millis(6_500),
        "{took:?} {:?}",
        server.log()
    );
    assert!(server.has("jobs were not released"), "{:?}", server.log());
    scene.proxy.go_on();
    let _other = scene.start();
    wait_until(|| scene.db.rows("SELECT count(*) FROM jobs WHERE claim > 1") == ["10"]);
}
