//! The store against a simple model: random walks of operations, and after each step every task,
//! history, counter and account as the model has it.

use proptest::prelude::*;

use super::races::check;
use super::*;
use crate::plain_text::log_lines;
use crate::task::EventKind::{self, *};
use crate::task::{AttemptResult, LogStream, TaskStatus, TransitionError};

const SESSIONS: usize = 2;
const MAX_TASKS: usize = 6;
const KEEP: usize = 2;

#[derive(Clone, Debug)]
enum Op {
    Create { session: usize, queued: bool },
    Start(Pick),
    Begin(Pick),
    Report(Pick, u8, u8),
    Finish(Pick, bool),
    Cancel(Pick),
    Retry(Pick),
    Share(Pick),
    Log(Pick, String),
    Signal(Pick),
    Hold(Pick, Hold),
    Fail(Pick),
    Clean(usize),
}

/// Which of the tasks made so far, by whom, and how many attempts ago.
#[derive(Clone, Copy, Debug)]
struct Pick {
    task: usize,
    by: usize,
    ago: u32,
}

fn pick() -> impl Strategy<Value = Pick> {
    let by = prop_oneof![6 => Just(0_usize), 1 => Just(1)];
    let ago = prop_oneof![4 => Just(0_u32), 1 => Just(1)];
    (0..12_usize, by, ago).prop_map(|(task, by, ago)| Pick { task, by, ago })
}

fn hold() -> impl Strategy<Value = Hold> {
    prop_oneof![Just(Hold::Advance), Just(Hold::Pause), Just(Hold::Resume)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (0..SESSIONS, any::<bool>()).prop_map(|(session, queued)| Op::Create { session, queued }),
        2 => pick().prop_map(Op::Start),
        4 => pick().prop_map(Op::Begin),
        6 => (pick(), 0..=100_u8, 0..3_u8).prop_map(|(p, percent, step)| Op::Report(p, percent, step)),
        3 => (pick(), any::<bool>()).prop_map(|(p, good)| Op::Finish(p, good)),
        2 => pick().prop_map(Op::Cancel),
        3 => pick().prop_map(Op::Retry),
        1 => pick().prop_map(Op::Share),
        3 => (pick(), "([a-z]{0,30}\n){0,3}").prop_map(|(p, text)| Op::Log(p, text)),
        3 => pick().prop_map(Op::Signal),
        4 => (pick(), hold()).prop_map(|(p, hold)| Op::Hold(p, hold)),
        1 => pick().prop_map(Op::Fail),
        1 => (0..SESSIONS).prop_map(Op::Clean),
    ]
}

/// What the contract says of one task, in a few words.
#[derive(Clone, Debug)]
struct Model {
    id: TaskId,
    session: usize,
    attempt: u32,
    status: TaskStatus,
    queued: bool,
    progress: u8,
    step: u8,
    shared: bool,
    waiting: bool,
    paused: bool,
    /// Something was said that the attempt has not heard yet.
    told: bool,
    /// Kind, attempt, percent.
    trail: Vec<(EventKind, u32, u8)>,
    /// Attempt and text.
    lines: Vec<(u32, String)>,
}

impl Model {
    fn log(&mut self, kind: EventKind) {
        self.trail.push((kind, self.attempt, self.progress));
    }

    fn end(&mut self, kind: EventKind) {
        self.status = kind.status();
        self.queued = false;
        (self.waiting, self.paused, self.told) = (false, false, false);
        if kind == Completed {
            self.progress = 100;
        }
        self.log(kind);
    }
}

struct Walk {
    tasks: TaskManager,
    models: Vec<Model>,
    attempts: Vec<Attempt>,
}

fn key(session: usize) -> SessionKey {
    SessionKey::parse(["a", "b"][session]).expect("a valid key")
}

fn step_name(step: u8) -> &'static str {
    ["", "Load", "Store"][usize::from(step)]
}

impl Walk {
    fn new() -> Walk {
        let limits = Limits {
            max_tasks_per_session: MAX_TASKS,
            max_completed_tasks: KEEP,
            max_failed_tasks: KEEP,
            max_cancelled_tasks: KEEP,
            ..Limits::default()
        };
        Walk {
            tasks: TaskManager::new(limits, None),
            models: Vec::new(),
            attempts: Vec::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Create { session, queued } => self.create(session, queued),
            Op::Clean(session) => self.clean(session),
            Op::Start(pick)
            | Op::Begin(pick)
            | Op::Report(pick, ..)
            | Op::Finish(pick, _)
            | Op::Cancel(pick)
            | Op::Retry(pick)
            | Op::Log(pick, _)
            | Op::Signal(pick)
            | Op::Hold(pick, _)
            | Op::Fail(pick)
            | Op::Share(pick) => {
                if !self.models.is_empty() {
                    self.act(op, pick.task % self.models.len(), pick);
                }
            }
        }
        self.compare();
    }

    fn create(&mut self, session: usize, queued: bool) {
        let created = self.tasks.insert(&key(session), NewTask::new("n"), queued);
        let own = self.models.iter().filter(|m| m.session == session).count();
        if own == MAX_TASKS {
            assert_eq!(created.err(), Some(StoreError::SessionTaskLimit(MAX_TASKS)));
            return;
        }
        let (task, attempt) = created.expect("there is room");
        let mut model = Model {
            id: task.id,
            session,
            attempt: 1,
            status: TaskStatus::Pending,
            queued,
            progress: 0,
            step: 0,
            shared: false,
            waiting: false,
            paused: false,
            told: false,
            trail: Vec::new(),
            lines: Vec::new(),
        };
        model.log(Created);
        if queued {
            model.log(Queued);
        }
        self.models.push(model);
        self.attempts.push(attempt);
    }

    /// What a client asks, under its own key or another's, and what a worker does, in this
    /// attempt or an earlier one.
    fn act(&mut self, op: Op, place: usize, pick: Pick) {
        let tasks = self.tasks.clone();
        let model = &mut self.models[place];
        let id = model.id;
        let client = key((model.session + pick.by) % SESSIONS);
        let stranger = pick.by != 0;
        let mut attempt = self.attempts[place].clone();
        attempt.number = model.attempt.saturating_sub(pick.ago);
        let current = pick.ago == 0;
        let runs = current && model.status == TaskStatus::Running;
        let want = |allowed: bool, why: TransitionError| match (stranger, allowed) {
            (true, _) => Err(StoreError::TaskNotFound),
            (false, true) => Ok(()),
            (false, false) => Err(StoreError::TransitionError(why)),
        };
        let status = model.status;
        match op {
            Op::Start(_) => {
                let allowed = status == TaskStatus::Pending && !model.queued;
                let want = want(allowed, TransitionError::NotStartable(status));
                assert_eq!(tasks.queue(&client, id).map(drop), want);
                if want.is_ok() {
                    model.queued = true;
                    model.log(Queued);
                }
            }
            Op::Begin(_) => {
                let awaited = current && model.queued;
                assert_eq!(tasks.begin(&attempt).is_some(), awaited);
                if awaited {
                    model.queued = false;
                    model.status = TaskStatus::Running;
                    model.log(Started);
                }
            }
            Op::Report(_, percent, step) => {
                let taken = tasks.report(&attempt, percent, step_name(step), "");
                assert_eq!(taken.is_ok(), runs);
                if runs && (percent > model.progress || step != model.step) {
                    model.progress = model.progress.max(percent);
                    model.step = step;
                    model.log(Progress);
                }
            }
            Op::Finish(_, good) => {
                let ending = match good {
                    true => AttemptResult::Completed(None),
                    false => AttemptResult::Failed("why".to_owned()),
                };
                assert_eq!(tasks.finish(&attempt, ending).is_some(), runs);
                if runs {
                    model.end(if good { Completed } else { Failed });
                }
            }
            Op::Cancel(_) => {
                let want = want(!status.is_final(), TransitionError::AlreadyFinished(status));
                assert_eq!(tasks.cancel(&client, id, "").map(drop), want);
                if want.is_ok() {
                    model.end(Cancelled);
                }
            }
            Op::Retry(_) => {
                let allowed = matches!(status, TaskStatus::Failed | TaskStatus::Cancelled);
                let want = want(allowed, TransitionError::NotRetryable(status));
                assert_eq!(tasks.retry(&client, id).map(drop), want);
                if want.is_ok() {
                    model.attempt += 1;
                    (model.status, model.queued) = (TaskStatus::Pending, true);
                    (model.progress, model.step) = (0, 0);
                    model.log(Retried);
                    model.log(Queued);
                }
            }
            Op::Signal(_) => {
                let told = tasks.signal(&attempt).is_some();
                assert_eq!(told, runs && model.told);
                if runs && !model.told && !model.waiting {
                    model.waiting = true;
                    model.log(Waiting);
                }
                model.told &= !runs;
            }
            Op::Hold(_, hold) => {
                let is_running = status == TaskStatus::Running;
                let want = match hold {
                    Hold::Advance => want(model.waiting, TransitionError::NotWaiting),
                    Hold::Pause => want(is_running, TransitionError::NotRunning(status)),
                    Hold::Resume => want(model.paused, TransitionError::NotPaused),
                };
                assert_eq!(tasks.hold(&client, id, "why", hold).map(drop), want);
                if want.is_ok() {
                    match hold {
                        Hold::Advance => (model.waiting, model.told) = (false, true),
                        // Of a paused one this changes nothing.
                        Hold::Pause if model.paused => return,
                        Hold::Pause => model.paused = true,
                        Hold::Resume => model.paused = false,
                    }
                    model.log(match hold {
                        Hold::Advance => Advanced,
                        Hold::Pause => Paused,
                        Hold::Resume => Resumed,
                    });
                }
            }
            Op::Fail(_) => {
                let is_running = status == TaskStatus::Running;
                let want = want(is_running, TransitionError::NotRunning(status));
                assert_eq!(tasks.fail(&client, id, "why").map(drop), want);
                if want.is_ok() {
                    model.end(Failed);
                }
            }
            Op::Share(_) => {
                let token = tasks.share(&client, id);
                assert_eq!(token.is_ok(), !stranger);
                model.shared |= !stranger;
                if let Ok(token) = token {
                    assert_eq!(tasks.shared_task(token), Some((client, id)));
                }
            }
            Op::Log(_, text) => {
                let added = tasks.add_log(&attempt, LogStream::Log, &text);
                let lines: Vec<_> = log_lines(&text).collect();
                assert_eq!(added.is_ok(), runs);
                if runs {
                    let lines = lines
                        .into_iter()
                        .map(|line| (model.attempt, line.into_owned()));
                    model.lines.extend(lines);
                }
            }
            Op::Create { .. } | Op::Clean(_) => {}
        }
    }

    /// The newest of each final status stay, and all that is not final.
    fn clean(&mut self, session: usize) {
        let mut to_remove = Vec::new();
        for status in [Completed, Failed, Cancelled].map(EventKind::status) {
            let mut ended: Vec<_> = self
                .models
                .iter()
                .filter(|m| m.session == session && m.status == status)
                .map(|m| {
                    let task = self.tasks.get(&key(session), m.id).expect("it is there");
                    (task.completed_at, m.id)
                })
                .collect();
            ended.sort_unstable();
            let surplus = ended.len().saturating_sub(KEEP);
            to_remove.extend(ended[..surplus].iter().map(|(_, id)| *id));
        }
        assert_eq!(self.tasks.clean(&key(session)), to_remove.len());
        for place in (0..self.models.len()).rev() {
            if to_remove.contains(&self.models[place].id) {
                self.models.remove(place);
                self.attempts.remove(place);
            }
        }
    }

    fn compare(&self) {
        for model in &self.models {
            let owner = key(model.session);
            let task = self.tasks.get(&owner, model.id).expect("it is there");
            assert_eq!(
                (task.status, task.queued, task.attempt, task.progress),
                (model.status, model.queued, model.attempt, model.progress)
            );
            assert_eq!((task.waiting, task.paused), (model.waiting, model.paused));
            assert_eq!(
                task.step.as_deref().unwrap_or_default(),
                step_name(model.step)
            );
            let trail = self.tasks.history(&owner, model.id, |events| {
                events
                    .map(|e| (e.kind, e.attempt, e.progress))
                    .collect::<Vec<_>>()
            });
            assert_eq!(trail.as_ref(), Ok(&model.trail));
            let lines = self.tasks.log(&owner, model.id, |lines| {
                let numbered = lines.zip(1..).inspect(|(line, n)| assert_eq!(line.n, *n));
                numbered
                    .map(|(line, _)| (line.attempt, line.text.into_owned()))
                    .collect::<Vec<_>>()
            });
            assert_eq!(lines.as_ref(), Ok(&model.lines));
        }
        for session in 0..SESSIONS {
            let own = || self.models.iter().filter(|m| m.session == session);
            assert_eq!(self.tasks.stats(&key(session)).total, own().count());
        }
        check(&self.tasks);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn every_walk_ends_where_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let mut walk = Walk::new();
        for op in ops {
            walk.apply(op);
        }
    }
}
