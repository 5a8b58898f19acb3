//! Tests the life cycle of claims with random schedules: several workers that freeze, die and wake, and one database.
//!
//! The database is a model of the statements in `sql/work.rs`; the workers use the real [`Claims`]. After each step
//! the test checks the invariants; at the end every job must finish.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use proptest::prelude::*;
use uuid::Uuid;

use super::claims::{Claims, Held};
use crate::jobs::clock::{LeaseClock, Millis};
use crate::jobs::storage::Claim;

const LEASE: Millis = 30;
const WORKERS: usize = 3;
const JOBS: usize = 4;

#[derive(Clone, Default)]
struct TestClock(Arc<AtomicU64>);

impl LeaseClock for TestClock {
    fn now(&self) -> Millis {
        self.0.load(SeqCst)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Status {
    Pending,
    Processing,
    Finished,
}

#[derive(Debug)]
struct Row {
    status: Status,
    claim: i64,
    lease_until: Millis,
    /// How often the executor was called and how often a result was written.
    calls: u32,
    ends: u32,
}

/// A claim on its worker, and whether its executor runs.
struct Run {
    held: Arc<Held>,
    is_in_executor: bool,
    has_ended: bool,
}

struct Worker {
    clock: TestClock,
    claims: Claims,
    runs: Vec<Run>,
    is_frozen: bool,
}

/// The database, the workers and the time.
struct World {
    now: Millis,
    /// Cancelled claims. Their executors run on until they notice.
    cancelled: HashSet<Claim>,
    rows: HashMap<Uuid, Row>,
    workers: Vec<Worker>,
}

#[derive(Clone, Debug)]
enum Step {
    Tick(Millis),
    Freeze(usize),
    Thaw(usize),
    Kill(usize),
    Claim(usize),
    Begin(usize, usize),
    Report(usize, usize),
    End(usize, usize),
    Write(usize),
    Renew(usize),
    Rescue(usize),
    Cancel(usize),
    /// The notification of a cancel names the claim. It may arrive late.
    NotifyCancel(usize, usize, i64),
    Retry(usize),
}

fn worker() -> Worker {
    let clock = TestClock::default();
    Worker {
        claims: Claims::new(Box::new(clock.clone())),
        clock,
        runs: Vec::new(),
        is_frozen: false,
    }
}

fn id(job: usize) -> Uuid {
    Uuid::from_u128(job as u128 + 1)
}

impl World {
    fn new() -> World {
        let row = || Row {
            status: Status::Pending,
            claim: 0,
            lease_until: 0,
            calls: 0,
            ends: 0,
        };
        World {
            now: 1,
            cancelled: HashSet::new(),
            rows: (0..JOBS).map(|job| (id(job), row())).collect(),
            workers: (0..WORKERS).map(|_| worker()).collect(),
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Tick(by) => self.now += by,
            Step::Freeze(w) => self.workers[w].is_frozen = true,
            Step::Thaw(w) => self.workers[w].is_frozen = false,
            // Its executors die with it.
            Step::Kill(w) => self.workers[w] = worker(),
            Step::Cancel(job) => self.cancel(id(job)),
            Step::Retry(job) => self.retry(id(job)),
            Step::Claim(w) if !self.workers[w].is_frozen => self.claim(w),
            Step::Begin(w, n) if !self.workers[w].is_frozen => self.begin(w, n),
            Step::Report(w, n) if !self.workers[w].is_frozen => self.report(w, n),
            Step::End(w, n) if !self.workers[w].is_frozen => self.end(w, n),
            Step::Write(w) if !self.workers[w].is_frozen => self.write(w),
            Step::Renew(w) if !self.workers[w].is_frozen => self.renew(w),
            Step::Rescue(w) if !self.workers[w].is_frozen => self.rescue(w),
            Step::NotifyCancel(w, job, back) if !self.workers[w].is_frozen => {
                self.notify_cancel(w, job, back)
            }
            _ => {}
        }
        // All clocks advance together. A frozen process sees the new time when it wakes.
        for worker in &self.workers {
            worker.clock.0.store(self.now, SeqCst);
        }
        self.check();
    }

    /// The row, if this claim is still valid.
    fn held(&mut self, claim: Claim) -> Option<&mut Row> {
        let row = self.rows.get_mut(&claim.id)?;
        (row.status == Status::Processing && row.claim == claim.token).then_some(row)
    }

    fn claim(&mut self, w: usize) {
        let until = self.workers[w].claims.now() + LEASE;
        let due: Vec<Uuid> = (0..JOBS).map(id).collect();
        for id in due {
            let row = self.rows.get_mut(&id).expect("a job");
            if row.status != Status::Pending {
                continue;
            }
            row.status = Status::Processing;
            row.claim += 1;
            row.lease_until = self.now + LEASE;
            let claim = Claim {
                id,
                token: row.claim,
            };
            match self.workers[w].claims.take(claim, 1, until) {
                Some(held) => self.workers[w].runs.push(Run {
                    held,
                    is_in_executor: false,
                    has_ended: false,
                }),
                None => {
                    row.status = Status::Pending;
                    row.claim += 1;
                }
            }
            return;
        }
    }

    fn begin(&mut self, w: usize, n: usize) {
        let worker = &mut self.workers[w];
        let Some(run) = worker.runs.get_mut(n) else {
            return;
        };
        if !run.is_in_executor && !run.has_ended && worker.claims.begin(&run.held).0 {
            run.is_in_executor = true;
            let row = self.rows.get_mut(&run.held.claim.id).expect("a job");
            row.calls += 1;
        }
    }

    /// The executor asks whether it may continue, and returns if not.
    fn report(&mut self, w: usize, n: usize) {
        let worker = &mut self.workers[w];
        let Some(run) = worker.runs.get_mut(n) else {
            return;
        };
        if run.is_in_executor && worker.claims.is_over(&run.held) {
            assert!(
                worker.claims.is_over(&run.held),
                "a claim that is over stays over"
            );
            worker.runs.remove(n);
        }
    }

    fn end(&mut self, w: usize, n: usize) {
        let worker = &mut self.workers[w];
        let Some(run) = worker.runs.get_mut(n) else {
            return;
        };
        if !run.is_in_executor {
            return;
        }
        match worker.claims.end(&run.held) {
            true => {
                run.is_in_executor = false;
                run.has_ended = true;
            }
            false => drop(worker.runs.remove(n)),
        }
    }

    fn write(&mut self, w: usize) {
        let ended = self.workers[w].runs.iter().filter(|run| run.has_ended);
        let ended: Vec<Claim> = ended.map(|run| run.held.claim).collect();
        for claim in &ended {
            if let Some(row) = self.held(*claim) {
                row.status = Status::Finished;
                row.ends += 1;
            }
        }
        self.workers[w].claims.written(ended);
        self.workers[w].runs.retain(|run| !run.has_ended);
    }

    fn renew(&mut self, w: usize) {
        let until = self.workers[w].claims.now() + LEASE;
        let round = self.workers[w].claims.round();
        let now = self.now;
        for lapsed in round.lapsed {
            if let Some(row) = self.held(lapsed.claim) {
                row.status = Status::Pending;
                row.claim += 1;
            }
        }
        for (claim, is_done) in round.renew {
            let row = self.held(claim);
            match row.filter(|row| is_done || row.lease_until >= now) {
                Some(row) => {
                    row.lease_until = now + LEASE;
                    self.workers[w].claims.extend([claim], until);
                }
                None => {
                    self.workers[w].claims.lose(claim);
                }
            }
        }
    }

    fn rescue(&mut self, w: usize) {
        let lapsed = self
            .rows
            .iter()
            .filter(|(_, row)| row.status == Status::Processing && row.lease_until < self.now);
        let lapsed = lapsed.map(|(id, row)| Claim {
            id: *id,
            token: row.claim,
        });
        let lapsed = lapsed.collect();
        for claim in self.workers[w].claims.not_here(lapsed) {
            let row = self.held(claim).expect("it was just found");
            row.status = Status::Pending;
            row.claim += 1;
        }
    }

    fn cancel(&mut self, id: Uuid) {
        let row = self.rows.get_mut(&id).expect("a job");
        if row.status == Status::Processing {
            let token = row.claim;
            self.cancelled.insert(Claim { id, token });
        }
        if row.status != Status::Finished {
            row.status = Status::Finished;
            row.claim += 1;
        }
    }

    fn retry(&mut self, id: Uuid) {
        let row = self.rows.get_mut(&id).expect("a job");
        if row.status == Status::Finished {
            row.status = Status::Pending;
            row.claim += 1;
        }
    }

    fn notify_cancel(&mut self, w: usize, job: usize, back: i64) {
        let row = &self.rows[&id(job)];
        // The notification of a cancel never names the current claim.
        let is_current = row.status == Status::Processing && back == 0;
        if !is_current {
            let claim = Claim {
                id: id(job),
                token: row.claim - back,
            };
            self.workers[w].claims.lose(claim);
        }
    }

    fn check(&self) {
        for (id, row) in &self.rows {
            // All executors that would continue if they asked now.
            let may_run = self.workers.iter().flat_map(|worker| {
                let own = worker.runs.iter().filter(|run| run.held.claim.id == *id);
                own.filter(|run| run.is_in_executor && !worker.claims.would_be_over(&run.held))
            });
            let may_run = may_run.map(|run| run.held.claim);
            let may_run: Vec<Claim> = may_run
                .filter(|claim| !self.cancelled.contains(claim))
                .collect();
            assert!(
                may_run.len() <= 1,
                "run by two live workers: {may_run:?} {row:?}"
            );
            // No executor may continue after its lease has expired in the database.
            if row.status == Status::Processing
                && let Some(running) = may_run.first().filter(|claim| claim.token == row.claim)
            {
                assert!(
                    row.lease_until >= self.now,
                    "{running:?} outlives its lease: {row:?}"
                );
            }
        }
        for worker in &self.workers {
            let busy = worker.runs.iter().filter(|run| run.is_in_executor);
            let jobs: Vec<Uuid> = busy.map(|run| run.held.claim.id).collect();
            let distinct: HashSet<_> = jobs.iter().collect();
            assert_eq!(
                distinct.len(),
                jobs.len(),
                "one process runs a job twice at once"
            );
        }
    }

    /// All workers continue until every job has finished.
    fn finish_all(&mut self) {
        for round in 0..200 {
            if self.rows.values().all(|row| row.status == Status::Finished) {
                return;
            }
            for w in 0..WORKERS {
                let mut steps = vec![
                    Step::Thaw(w),
                    Step::Renew(w),
                    Step::Rescue(w),
                    Step::Claim(w),
                ];
                for n in (0..JOBS * 2).rev() {
                    steps.extend([Step::Report(w, n), Step::Begin(w, n), Step::End(w, n)]);
                }
                steps.extend([Step::Write(w), Step::Tick(3)]);
                steps.iter().for_each(|step| self.step(step));
                let worker = &mut self.workers[w];
                let claims = &worker.claims;
                worker.runs.retain(|run| {
                    run.is_in_executor || run.has_ended || !claims.is_over(&run.held)
                });
            }
            assert!(round < 199, "stuck: {:?}", self.rows);
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (w, n, job) = (0..WORKERS, 0..JOBS, 0..JOBS);
    let (w, n, job) = (move || w.clone(), move || n.clone(), move || job.clone());
    let step = prop_oneof![
        4 => (1..25_u64).prop_map(Step::Tick),
        1 => w().prop_map(Step::Freeze),
        2 => w().prop_map(Step::Thaw),
        1 => w().prop_map(Step::Kill),
        4 => w().prop_map(Step::Claim),
        4 => (w(), n()).prop_map(|(w, n)| Step::Begin(w, n)),
        3 => (w(), n()).prop_map(|(w, n)| Step::Report(w, n)),
        2 => (w(), n()).prop_map(|(w, n)| Step::End(w, n)),
        2 => w().prop_map(Step::Write),
        4 => w().prop_map(Step::Renew),
        3 => w().prop_map(Step::Rescue),
        1 => job().prop_map(Step::Cancel),
        2 => (w(), job(), 0..3_i64).prop_map(|(w, job, back)| Step::NotifyCancel(w, job, back)),
        2 => job().prop_map(Step::Retry),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_job_is_never_stuck_lost_or_run_by_two_live_workers(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        world.finish_all();
    }
}
