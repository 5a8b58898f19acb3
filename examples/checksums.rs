//! Sums up the bytes of real files, with progress by file, and has its executor tested:
//! `cargo run --example checksums -- FILE…`

use std::fs;

use async_task_system::store::WatchUpdate;
use async_task_system::{
    Config, ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskError, TaskSystem,
};
use serde::Deserialize;
use serde_json::json;

/// The arguments. A task without `files` is refused when it is created.
#[derive(Deserialize)]
struct Checksums {
    files: Vec<String>,
}

fn sum_up(args: &mut Checksums, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
    let mut sums = Vec::new();
    ctx.each("Reading", &args.files, |file| {
        let bytes = fs::read(file)?;
        let sum = bytes
            .iter()
            .fold(0_u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
        sums.push(json!({ "file": file, "sum": sum }));
        Ok(())
    })?;
    Ok(Outcome::done(json!(sums)))
}

fn registry() -> ExecutorRegistry {
    let mut registry = ExecutorRegistry::new();
    registry.typed_blocking("checksums", sum_up);
    registry
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let system = TaskSystem::start(&Config::default(), registry())?;
    let session: SessionKey = "example".parse()?;
    let task = NewTask::new("Checksums")
        .kind("checksums")
        .metadata(&json!({ "files": files }));
    let id = system.execution().submit(&session, task)?.id;
    let mut watch = system.tasks().watch(&session, id, Some(0))?;
    while let WatchUpdate::Events(events) = watch.next(std::time::Duration::from_secs(60)) {
        for event in events {
            let step = event.snapshot.step_description.unwrap_or_default();
            println!(
                "{:>3} %  {} {step}",
                event.snapshot.progress, event.snapshot.status
            );
        }
    }
    let task = system.tasks().get(&session, id)?;
    system.stop();
    match task.result {
        Some(result) => println!("{result}"),
        None => return Err(task.error.unwrap_or_default().to_string().into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_task_system::testing::TestRun;

    use super::*;

    #[test]
    fn each_file_has_a_sum() {
        let arguments = json!({ "files": ["Cargo.toml", "README.md"] });
        let run = TestRun::of_type(&registry(), "checksums").arguments(&arguments);
        let run = run.run();
        assert_eq!(run.percents(), [0, 50]);
        let sums = run.result.expect("the files are there").expect("sums");
        assert_eq!(sums[1]["file"], "README.md");
    }
}
