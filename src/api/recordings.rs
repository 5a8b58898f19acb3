//! `/tasks/:id/recording`, and the replay of one.

use std::time::Duration;

use serde::Deserialize;

use super::call::{Api, Call};
use super::demo::{REPLAYED, created};
use super::watch;
use crate::cast;
use crate::demo::recording::Recording;
use crate::http::Response;
use crate::http::router::Answer;
use crate::player::{Act, Deed, Script, Touch};
use crate::store::{NewTask, StoreError};
use crate::task::{EventKind, SessionKey, Task, TaskId};

pub(super) fn recording(call: &Call<'_>) -> Answer {
    Ok(Response::json(
        200,
        &of(call.api, &call.session, call.id()?)?,
    ))
}

pub(super) fn recording_cast(call: &Call<'_>) -> Answer {
    let recording = of(call.api, &call.session, call.id()?)?;
    Ok(cast::response(&recording))
}

/// What a task's history says.
pub(super) fn of(api: &Api, session: &SessionKey, id: TaskId) -> Result<Recording, StoreError> {
    let (name, kind) = api
        .tasks
        .inspect(session, id, |task| (task.name.clone(), task.kind.clone()))?;
    api.tasks
        .history(session, id, |history| Recording::of(&name, &kind, history))
}

/// Runs a recording again. What others did to the recorded task, its retries and its cancel, the player does.
pub(super) fn replay(call: &Call<'_>) -> Answer {
    watch::create(call, |_| {
        let mut fields = call.fields()?;
        let new = REPLAYED.read(&mut fields, 1.0);
        fields.finish()?;
        let replay = Replay::of(&new);
        let task = start(call, new, replay.as_ref())?;
        let acts = replay.map_or_else(Vec::new, |replay| replay.acts(0, Duration::ZERO));
        if !acts.is_empty() {
            let script = Script {
                acts,
                is_loop: false,
            };
            // No scene can have this name.
            let name = format!("/{}", task.id);
            call.api.play(&call.session, &name, script, Some(task.id))?;
        }
        Ok(created(&REPLAYED, &task))
    })
}

/// A task that was never started is not started again.
fn start(call: &Call<'_>, new: NewTask, replay: Option<&Replay>) -> Result<Task, StoreError> {
    let was_started = replay.is_none_or(|replay| {
        let mut events = replay.recording.events().iter();
        events.any(|event| event.kind == EventKind::Queued)
    });
    match was_started {
        true => call
            .api
            .system
            .execution()
            .submit_checked(&call.session, new),
        false => call.api.tasks.create(&call.session, new),
    }
}

/// What a task of the type `replay` was given.
#[derive(Deserialize)]
pub(super) struct Replay {
    recording: Recording,
    #[serde(default = "one")]
    speed: f64,
}

fn one() -> f64 {
    1.0
}

impl Replay {
    pub(super) fn of(new: &NewTask) -> Option<Replay> {
        serde_json::from_str(new.metadata.as_ref()?.get()).ok()
    }

    /// What others do to the task at this place, which is created at this time.
    pub(super) fn acts(&self, place: usize, from: Duration) -> Vec<Act> {
        let events = self.recording.events().iter().enumerate();
        let act = events.filter_map(|(entries, event)| {
            let note = event.message.clone().unwrap_or_default();
            let how = match event.kind {
                EventKind::Retried => Touch::Retry,
                EventKind::Advanced => Touch::Advance(note),
                EventKind::Paused => Touch::Pause(note),
                EventKind::Resumed => Touch::Resume(note),
                EventKind::Cancelled => Touch::Cancel(note),
                _ => return None,
            };
            let at = from + event.due(self.speed);
            let deed = Deed::Touch {
                place,
                entries,
                how,
            };
            Some(Act { at, deed })
        });
        act.collect()
    }
}
