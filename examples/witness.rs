//! A server with an executor of its own, which leaves a trace of each job where others can look:
//! the tests kill and freeze this program, and see whether two of it ever ran one job at once.
//! `WITNESS_DIR=/tmp STORAGE=sqlite ENABLE_QUEUE=true JWT_SECRET=… cargo run --features jobs --example witness`

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_task_system::{
    Config, ExecutorRegistry, Outcome, Server, TaskContext, TaskError, TaskExecutor, TaskInput,
};
use serde::Deserialize;
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arguments {
    steps: u32,
    step_ms: u64,
    /// How many runs of this job end their whole process.
    #[serde(default)]
    crashes: usize,
    /// At which of its steps.
    #[serde(default)]
    crash_step: u32,
}

/// Runs that this process has begun. Neither an attempt's number nor a process says which run
/// a line is from: both come again after a retry or after a job was given back.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Writes a line (attempt, process, run) before each step, in one write to the end of the job's file, so that the order of
/// lines is the order of steps, whichever process made them.
///
/// It writes only after a report was taken. So a second line of an attempt proves that it still held
/// its job when it wrote the first; a process that is frozen between report and line can leave one
/// line too late, never two. A job without a file was never begun.
struct Witness {
    file: File,
    arguments: Arguments,
    step: u32,
    run: u32,
    /// As many as have crashed, where it is to crash.
    earlier_runs: usize,
}

impl Witness {
    fn new(folder: &Path, input: &TaskInput) -> Result<Witness, TaskError> {
        let path = folder.join(input.id.to_string());
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).read(true).open(path)?;
        let mut earlier = String::new();
        file.read_to_string(&mut earlier)?;
        Ok(Witness {
            file,
            arguments: input.arguments()?,
            step: 0,
            run: RUNS.fetch_add(1, Ordering::Relaxed),
            earlier_runs: earlier.lines().collect::<HashSet<_>>().len(),
        })
    }
}

impl TaskExecutor for Witness {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        let Arguments {
            steps,
            step_ms,
            crashes,
            crash_step,
        } = self.arguments;
        let percent = self.step * 100 / steps.max(1);
        ctx.progress(percent.min(100) as u8, "Witnessing", "")?;
        let attempt = ctx.input().attempt;
        let line = format!("{attempt} {} {}\n", std::process::id(), self.run);
        self.file.write_all(line.as_bytes())?;
        if self.step == crash_step && self.earlier_runs < crashes {
            std::process::abort();
        }
        if self.step >= steps {
            return Ok(Outcome::done(json!({ "steps": steps })));
        }
        self.step += 1;
        Ok(Outcome::Again(Duration::from_millis(step_ms)))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::var_os("WITNESS_DIR").ok_or("WITNESS_DIR is not set")?;
    let config = Config::from_env()?;
    let format = simplelog::Config::default();
    simplelog::WriteLogger::init(config.log_level, format, std::io::stderr())?;
    let mut registry = ExecutorRegistry::new();
    registry.register("witness", move |input| {
        Witness::new(Path::new(&folder), input)
    });
    let server = Server::start(config, registry)?;
    // Before this, while it may wait for its database, a signal ends the process at once.
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    signals.forever().next();
    server.stop();
    Ok(())
}
