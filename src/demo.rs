//! The demo executors: they show progress, failure and retry, and touch nothing.
//!
//! Five have a [`Plan`], a list of steps with a percent and a pause; one executor walks them all,
//! a slice a step, so that thousands run on a few workers. The sixth shows a recording again.

mod pace;
pub(crate) mod recording;
mod replay;

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use self::pace::SPEEDS;
use self::pace::{Pace, simulated_failure};
use self::replay::Replay;
use crate::executor::{
    ExecutorRegistry, Outcome, Source, TaskContext, TaskError, TaskExecutor, TaskInput,
};

/// The most items of a batch.
pub(crate) const MAX_ITEMS: usize = 10_000;

/// The longest delay of one step, in milliseconds.
pub(crate) const MAX_DELAY_MS: u64 = 3_600_000;

/// A whole number as people write it: 1024, and not 1024.0.
pub(crate) fn plain(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.fract() == 0.0 && number.abs() < EXACT {
        true => json!(number as i64),
        false => json!(number),
    }
}

/// A demo's type, what it is for people, an example of its arguments, and what makes its plan.
type Entry = (&'static str, &'static str, Value, Planner);
type Planner = fn(&TaskInput) -> Result<Plan, TaskError>;

fn plans() -> [Entry; 5] {
    let steps = json!([
        { "name": "Pick", "durationMs": 2_000 },
        { "name": "Ship", "durationMs": 3_000, "progress": 60 },
    ]);
    [
        (
            "sample",
            "Ten equal slices",
            json!({ "delayMs": 20_000 }),
            sample,
        ),
        (
            "file-processing",
            "Seems to process a file, in six steps",
            json!({ "filePath": "reports/2026.csv", "speed": 2 }),
            file_processing,
        ),
        (
            "api-call",
            "Seems to call an API, in four steps",
            json!({ "endpoint": "https://api.example.com/orders", "method": "POST" }),
            api_call,
        ),
        (
            "batch-processing",
            "Works through a list, a step for each item",
            json!({ "items": ["A-1", "A-2", "A-3"], "itemDelayMs": 500 }),
            batch,
        ),
        (
            "workflow",
            "A process of your own, step by step",
            json!({ "name": "Order", "steps": steps }),
            workflow,
        ),
    ]
}

/// Registers the demo types that `registry` does not have, and tells which.
pub(crate) fn register(registry: &mut ExecutorRegistry) -> Vec<&'static str> {
    let mut registered = Vec::new();
    for (kind, description, example, plan) in plans() {
        if registry.get(kind).is_none() {
            registry
                .register(kind, move |input| Walk::new(plan(input)?, input))
                .source(Source::Demo)
                .description(description)
                .example(example);
            registered.push(kind);
        }
    }
    if registry.get(REPLAY).is_none() {
        registry
            .register(REPLAY, Replay::new)
            .source(Source::Demo)
            .description("Shows the recording of a task or job again")
            .example(recording_example());
        registered.push(REPLAY);
    }
    registered
}

fn recording_example() -> Value {
    let event = |at: u64, event: &str, progress: u8| json!({ "at": at, "event": event, "attempt": 1, "progress": progress });
    let mut picking = event(10, "progress", 20);
    picking["step"] = json!("Pick");
    let events = [
        event(0, "created", 0),
        event(0, "queued", 0),
        event(5, "started", 0),
        picking,
        event(8_000, "completed", 100),
    ];
    json!({ "recording": { "version": 1, "name": "Order", "type": "workflow", "events": events } })
}

/// The type that shows a recording again.
pub(crate) const REPLAY: &str = "replay";

struct Step<'a> {
    percent: u8,
    name: Cow<'a, str>,
    description: Cow<'a, str>,
    pause: Duration,
    /// A person must let it go on before its pause.
    waits: bool,
}

/// What is shown, and what comes out.
struct Plan {
    steps: Steps,
    result: Value,
}

enum Steps {
    /// Ten slices of the same length.
    Slices(Duration),
    /// Fixed names and percents, each for the same time.
    Named(&'static [(u8, &'static str, &'static str)], Duration),
    /// One step an item.
    Items(usize, Duration),
    /// The presenter's own.
    Own(Vec<OwnStep>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OwnStep {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    duration_ms: f64,
    #[serde(default)]
    wait: Option<bool>,
    #[serde(default)]
    progress: Option<f64>,
}

impl Steps {
    fn get(&self, i: usize) -> Option<Step<'_>> {
        let step = match self {
            Steps::Slices(pause) => Step {
                percent: (i < 10).then_some(i as u8 * 10)?,
                name: format!("Step {}", i + 1).into(),
                description: format!("Working on part {} of 10", i + 1).into(),
                pause: *pause,
                waits: false,
            },
            Steps::Named(steps, pause) => {
                let (percent, name, description) = *steps.get(i)?;
                Step {
                    percent,
                    name: name.into(),
                    description: description.into(),
                    pause: *pause,
                    waits: false,
                }
            }
            Steps::Items(count, pause) => Step {
                percent: (i < *count).then(|| (i * 100 / count) as u8)?,
                name: format!("Item {} of {count}", i + 1).into(),
                description: Cow::Borrowed(""),
                pause: *pause,
                waits: false,
            },
            Steps::Own(steps) => {
                let own = steps.get(i)?;
                Step {
                    percent: own
                        .progress
                        .map_or((i * 100 / steps.len()) as u8, |p| p as u8),
                    name: own.name.as_str().into(),
                    description: own.description.as_deref().unwrap_or_default().into(),
                    pause: delay(own.duration_ms),
                    waits: own.wait.unwrap_or(false),
                }
            }
        };
        Some(step)
    }
}

fn delay(ms: f64) -> Duration {
    Duration::from_millis((ms as u64).min(MAX_DELAY_MS))
}

/// Walks a plan, a step a slice.
struct Walk {
    plan: Plan,
    next: usize,
    /// The pause of the step that waits for a person.
    held: Option<Duration>,
    pace: Pace,
}

impl Walk {
    fn new(plan: Plan, input: &TaskInput) -> Result<Walk, TaskError> {
        Ok(Walk {
            plan,
            next: 0,
            held: None,
            pace: Pace::of(input),
        })
    }
}

impl Walk {
    /// Waits for a person, and then for the step's pause.
    fn wait(&mut self, ctx: &mut TaskContext<'_>, pause: Duration) -> Outcome {
        self.held = ctx.signal().is_none().then_some(pause);
        match self.held {
            Some(_) => Outcome::Wait(Duration::from_secs(86_400)),
            None => Outcome::Again(pause),
        }
    }
}

impl TaskExecutor for Walk {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        if let Some(pause) = self.held {
            return Ok(self.wait(ctx, pause));
        }
        let step = self.plan.steps.get(self.next);
        let percent = step.as_ref().map_or(100, |step| step.percent);
        let before = || self.plan.steps.get(self.next.checked_sub(1)?);
        if let Some(fail_at) = self.pace.failure(percent) {
            let shown = step.filter(|step| step.percent == fail_at).or_else(before);
            let name = shown.as_ref().map_or("Step 1", |step| &step.name);
            ctx.progress(fail_at, name, "Failing, as asked")?;
            return Err(simulated_failure(fail_at));
        }
        let Some(step) = step else {
            if let Some(last) = before() {
                ctx.progress(100, &last.name, &last.description)?;
            }
            return Ok(Outcome::done(self.plan.result.take()));
        };
        ctx.progress(step.percent, &step.name, &step.description)?;
        let pause = step.pause.div_f64(self.pace.speed);
        self.next += 1;
        match step.waits {
            true => Ok(self.wait(ctx, pause)),
            false => Ok(Outcome::Again(pause)),
        }
    }
}

fn sample(input: &TaskInput) -> Result<Plan, TaskError> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Arguments {
        delay_ms: Option<f64>,
    }
    let arguments: Arguments = input.arguments().unwrap_or_default();
    let length = delay(arguments.delay_ms.unwrap_or(5_000.0));
    let ms = length.as_millis() as u64;
    Ok(Plan {
        steps: Steps::Slices(length / 10),
        result: json!({ "message": "Sample task completed", "simulatedMs": ms, "slices": 10 }),
    })
}

fn file_processing(input: &TaskInput) -> Result<Plan, TaskError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Arguments {
        file_path: String,
        file_size: Option<f64>,
        processing_type: Option<String>,
    }
    let arguments: Arguments = input.arguments()?;
    Ok(Plan {
        steps: Steps::Named(
            &[
                (10, "Validating file", "Checking name and format"),
                (25, "Reading file", "Loading the content"),
                (50, "Parsing content", "Turning bytes into records"),
                (75, "Processing data", "Working through the records"),
                (90, "Saving results", "Writing what was found"),
                (100, "Finalizing", "Tidying up"),
            ],
            Duration::from_secs(1),
        ),
        result: json!({
            "message": "File processing simulated; no file was opened",
            "filePath": arguments.file_path,
            "fileSize": arguments.file_size.map(plain),
            "processingType": arguments.processing_type.as_deref().unwrap_or("default"),
        }),
    })
}

fn api_call(input: &TaskInput) -> Result<Plan, TaskError> {
    #[derive(Deserialize)]
    struct Arguments {
        endpoint: String,
        method: Option<String>,
    }
    let arguments: Arguments = input.arguments()?;
    Ok(Plan {
        steps: Steps::Named(
            &[
                (20, "Preparing request", "Gathering headers and data"),
                (40, "Sending request", "Handing it to the network"),
                (60, "Waiting for response", "The other side is thinking"),
                (80, "Processing response", "Reading what came back"),
            ],
            Duration::from_millis(500),
        ),
        result: json!({
            "message": "API call simulated; no address was called",
            "endpoint": arguments.endpoint,
            "method": arguments.method.as_deref().unwrap_or("GET"),
            "statusCode": 200,
        }),
    })
}

fn batch(input: &TaskInput) -> Result<Plan, TaskError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Arguments {
        #[serde(default)]
        items: Vec<serde::de::IgnoredAny>,
        #[serde(default)]
        item_count: usize,
        item_delay_ms: Option<f64>,
    }
    let arguments: Arguments = input.arguments()?;
    let count = arguments.items.len().max(arguments.item_count);
    if count == 0 {
        return Err(TaskError::new(
            "items array is required and must not be empty",
        ));
    }
    let count = count.min(MAX_ITEMS);
    Ok(Plan {
        steps: Steps::Items(count, delay(arguments.item_delay_ms.unwrap_or(100.0))),
        result: json!({ "message": "Batch simulated", "itemsProcessed": count }),
    })
}

fn workflow(input: &TaskInput) -> Result<Plan, TaskError> {
    #[derive(Deserialize)]
    struct Arguments {
        steps: Vec<OwnStep>,
    }
    let arguments: Arguments = input.arguments()?;
    let names: Vec<_> = arguments.steps.iter().map(|s| s.name.clone()).collect();
    Ok(Plan {
        steps: Steps::Own(arguments.steps),
        result: json!({ "message": "Workflow simulated", "steps": names }),
    })
}
