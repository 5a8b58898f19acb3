//! Plays scripts: acts on tasks, each at its time. One thread, which the first play starts.
//!
//! The plays are under one lock, and no act is performed under it. What an act says about a play is taken in only
//! if that play still runs: each has a number of its own.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::engine::TaskExecutionService;
use crate::log_safe::LogSafe;
use crate::store::{Hold, NewTask, StoreError};
use crate::task::{SessionKey, TaskId, later};
use crate::threads;

/// How long an act that does not fit yet (a retry of what has not failed) is tried again, and how often.
const PATIENCE: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);

/// How often a play that begins anew looks whether its tasks have ended, and how long it pauses then.
const LOOK: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(2);

/// What is played.
#[derive(Debug)]
pub(crate) struct Script {
    /// In the order of their times.
    pub(crate) acts: Vec<Act>,
    /// Whether it begins anew once all of its tasks have ended.
    pub(crate) is_loop: bool,
}

#[derive(Debug)]
pub(crate) struct Act {
    /// Since the script's begin.
    pub(crate) at: Duration,
    pub(crate) deed: Deed,
}

/// What an act does. Tasks have the places that acts have given them; place 0 is the task that a play began with.
#[derive(Debug)]
pub(crate) enum Deed {
    /// Creates and starts a task.
    Create { place: usize, task: NewTask },
    /// Does this to a task, once its history has so many entries.
    Touch {
        place: usize,
        entries: usize,
        how: Touch,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Touch {
    Retry,
    /// With a note, as the two below.
    Advance(String),
    Pause(String),
    Resume(String),
    /// With the reason that the history tells; empty for none.
    Cancel(String),
}

/// Whose play it is, and its name.
type Owner = (SessionKey, Box<str>);

struct Play {
    number: u64,
    script: Arc<Script>,
    begun: Instant,
    next: usize,
    /// When it is looked at next.
    due: Instant,
    tasks: HashMap<usize, TaskId>,
}

#[derive(Default)]
struct Plays {
    by_owner: HashMap<Owner, Play>,
    /// By when they are due.
    queue: BTreeSet<(Instant, u64, Owner)>,
    last_number: u64,
    is_stopped: bool,
    thread: Option<JoinHandle<()>>,
}

/// Plays scripts. Its thread ends with [`stop`](Player::stop).
pub(crate) struct Player {
    execution: TaskExecutionService,
    plays: Mutex<Plays>,
    changed: Condvar,
}

/// What has become of an act.
enum Performed {
    Created(TaskId),
    Done,
    /// It does not fit yet.
    NotYet,
}

/// What is to be done next for a play, outside the lock.
struct Turn {
    owner: Owner,
    number: u64,
    script: Arc<Script>,
    /// The act; at the script's end there is none.
    next: usize,
    tasks: HashMap<usize, TaskId>,
}

impl Player {
    pub(crate) fn new(execution: TaskExecutionService) -> Arc<Player> {
        Arc::new(Player {
            execution,
            plays: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Plays a script from its begin, in the place of the play of that name.
    pub(crate) fn play(
        self: &Arc<Player>,
        session: &SessionKey,
        name: &str,
        script: Arc<Script>,
        first: Option<TaskId>,
    ) -> io::Result<()> {
        let mut plays = self.plays.lock();
        if plays.is_stopped {
            return Ok(());
        }
        if plays.thread.is_none() {
            let player = self.clone();
            plays.thread = Some(threads::spawn("player", move || player.run())?);
        }
        let owner = (session.clone(), name.into());
        plays.remove(&owner);
        plays.last_number += 1;
        let begun = Instant::now();
        let play = Play {
            number: plays.last_number,
            due: later(begun, script.acts.first().map_or(LOOK, |act| act.at)),
            script,
            begun,
            next: 0,
            tasks: first.map(|id| (0, id)).into_iter().collect(),
        };
        plays.insert(owner, play);
        self.changed.notify_one();
        Ok(())
    }

    /// Performs no further act of that play; whether there was one.
    pub(crate) fn end(&self, session: &SessionKey, name: &str) -> bool {
        let owner = (session.clone(), name.into());
        self.plays.lock().remove(&owner).is_some()
    }

    /// Ends every play of a session.
    pub(crate) fn end_all(&self, session: &SessionKey) {
        let mut plays = self.plays.lock();
        let own = plays.by_owner.keys().filter(|owner| owner.0 == *session);
        for owner in own.cloned().collect::<Vec<_>>() {
            plays.remove(&owner);
        }
    }

    pub(crate) fn is_playing(&self, session: &SessionKey, name: &str) -> bool {
        let owner = (session.clone(), name.into());
        self.plays.lock().by_owner.contains_key(&owner)
    }

    /// Ends all plays and the thread.
    pub(crate) fn stop(&self, deadline: Instant) {
        let mut plays = self.plays.lock();
        plays.is_stopped = true;
        plays.by_owner.clear();
        plays.queue.clear();
        let thread = plays.thread.take();
        drop(plays);
        self.changed.notify_all();
        if let Some(thread) = thread {
            threads::join_until(thread, deadline);
        }
    }

    fn run(&self) {
        let mut plays = self.plays.lock();
        while !plays.is_stopped {
            match plays.due() {
                Some(turn) => MutexGuard::unlocked(&mut plays, || self.take(turn)),
                None => self.wait(&mut plays),
            }
        }
    }

    fn wait(&self, plays: &mut MutexGuard<'_, Plays>) {
        match plays.queue.first().map(|(due, _, _)| *due) {
            Some(due) => drop(self.changed.wait_until(plays, due)),
            None => self.changed.wait(plays),
        }
    }

    /// Performs a play's next act, or looks whether it begins anew.
    fn take(&self, turn: Turn) {
        let Some(act) = turn.script.acts.get(turn.next) else {
            let has_ended = self.has_ended(&turn);
            self.go_on(&turn, |play| play.begin_anew(has_ended));
            return;
        };
        let performed = self.perform(&turn, act).unwrap_or_else(|error| {
            let name = LogSafe(&turn.owner.1);
            log::warn!("Act {} of scene {name} is left out: {error}", turn.next + 1);
            Performed::Done
        });
        self.go_on(&turn, |play| play.performed(act, performed));
    }

    fn perform(&self, turn: &Turn, act: &Act) -> Result<Performed, StoreError> {
        let session = &turn.owner.0;
        let (place, entries, how) = match &act.deed {
            Deed::Create { task, .. } => {
                let task = self.execution.submit_checked(session, task.clone())?;
                return Ok(Performed::Created(task.id));
            }
            Deed::Touch {
                place,
                entries,
                how,
            } => (place, *entries, how),
        };
        let Some(&id) = turn.tasks.get(place) else {
            return Ok(Performed::Done);
        };
        let tasks = self.execution.tasks();
        if tasks.history(session, id, |events| events.count())? < entries {
            return Ok(Performed::NotYet);
        }
        let touched = match how {
            Touch::Retry => self.execution.retry(session, id),
            Touch::Advance(note) => self.execution.hold(session, id, note, Hold::Advance),
            Touch::Pause(note) => self.execution.hold(session, id, note, Hold::Pause),
            Touch::Resume(note) => self.execution.hold(session, id, note, Hold::Resume),
            Touch::Cancel(reason) => self.execution.cancel_for(session, id, reason),
        };
        match touched {
            Ok(_) => Ok(Performed::Done),
            Err(StoreError::TransitionError(_)) => Ok(Performed::NotYet),
            Err(error) => Err(error),
        }
    }

    /// Whether all of its tasks have ended, or are gone.
    fn has_ended(&self, turn: &Turn) -> bool {
        let tasks = self.execution.tasks();
        let is_over = |id: &TaskId| {
            let status = tasks.inspect(&turn.owner.0, *id, |task| task.status);
            status.is_ok_and(|status| !status.is_final())
        };
        !turn.tasks.values().any(is_over)
    }

    /// Takes in what a turn has come to. The play that it belongs to may be over by now.
    fn go_on(&self, turn: &Turn, change: impl FnOnce(&mut Play) -> bool) {
        let mut plays = self.plays.lock();
        let is_same = |play: &Play| play.number == turn.number;
        if !plays.by_owner.get(&turn.owner).is_some_and(is_same) {
            return;
        }
        if let Some(mut play) = plays.remove(&turn.owner)
            && change(&mut play)
        {
            plays.insert(turn.owner.clone(), play);
        }
    }
}

impl Plays {
    fn insert(&mut self, owner: Owner, play: Play) {
        self.queue.insert((play.due, play.number, owner.clone()));
        self.by_owner.insert(owner, play);
    }

    fn remove(&mut self, owner: &Owner) -> Option<Play> {
        let play = self.by_owner.remove(owner)?;
        self.queue.remove(&(play.due, play.number, owner.clone()));
        Some(play)
    }

    fn due(&self) -> Option<Turn> {
        let (due, number, owner) = self.queue.first()?;
        let play = self.by_owner.get(owner)?;
        (*due <= Instant::now()).then(|| Turn {
            owner: owner.clone(),
            number: *number,
            script: play.script.clone(),
            next: play.next,
            tasks: play.tasks.clone(),
        })
    }
}

/// Each of these tells whether the play goes on.
impl Play {
    fn performed(&mut self, act: &Act, performed: Performed) -> bool {
        let now = Instant::now();
        match performed {
            Performed::NotYet if now < later(self.begun, act.at + PATIENCE) => {
                self.due = now + AGAIN;
                return true;
            }
            Performed::Created(id) => {
                if let Deed::Create { place, .. } = act.deed {
                    self.tasks.insert(place, id);
                }
            }
            Performed::Done | Performed::NotYet => {}
        }
        self.next += 1;
        match self.script.acts.get(self.next) {
            Some(next) => self.due = later(self.begun, next.at),
            None => self.due = now + LOOK,
        }
        self.next < self.script.acts.len() || self.script.is_loop
    }

    fn begin_anew(&mut self, has_ended: bool) -> bool {
        let now = Instant::now();
        self.due = now + LOOK;
        if has_ended {
            self.begun = now + PAUSE;
            self.next = 0;
            self.tasks.clear();
            self.due = later(
                self.begun,
                self.script.acts.first().map_or(LOOK, |act| act.at),
            );
        }
        true
    }
}
