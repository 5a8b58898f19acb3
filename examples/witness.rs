//! A server with an executor of its own, which leaves a trace of each job where others can look:
//! the tests kill and freeze this program, and see whether two of it ever ran one job at once.
//! `WITNESS_DIR=/tmp STORAGE=sqlite ENABLE_QUEUE=true JWT_SECRET=… cargo run --features jobs --example witness`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use async_task_system::{
    Config, ExecutorRegistry, Outcome, Server, TaskContext, TaskError, TaskExecutor, TaskInput,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arguments {
    steps: u32,
    step_ms: u64,
}

/// Writes a line before each step, in one write to the end of the job's file, so that the order of
/// lines is the order of steps, whichever process made them.
///
/// It writes only after a report was taken. So a second line of an attempt proves that it still held
/// its job when it wrote the first; a process that is frozen between report and line can leave one
/// line too late, never two.
struct Witness {
    file: File,
    arguments: Arguments,
    step: u32,
}

impl Witness {
    fn new(folder: &Path, input: &TaskInput) -> Result<Witness, TaskError> {
        let path = folder.join(input.id.to_string());
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Witness {
            file,
            arguments: input.arguments()?,
            step: 0,
        })
    }
}

impl TaskExecutor for Witness {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        let Arguments { steps, step_ms } = self.arguments;
        let percent = self.step * 100 / steps.max(1);
        ctx.progress(percent.min(100) as u8, "Witnessing", "")?;
        let line = format!("{} {}\n", ctx.input().attempt, std::process::id());
        self.file.write_all(line.as_bytes())?;
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
    let _server = Server::start(config, registry)?;
    // Until it is killed.
    loop {
        std::thread::park();
    }
}
