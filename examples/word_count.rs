//! Counts the words of a real file, with progress by bytes:
//! `cargo run --example word_count -- FILE`

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use async_task_system::{
    Config, ExecutorRegistry, NewTask, Outcome, SessionKey, TaskContext, TaskError, TaskSystem,
};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct WordCount {
    path: String,
}

impl WordCount {
    fn count(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        let mut file = File::open(&self.path)?;
        let size = file.metadata()?.len().max(1);
        let (mut words, mut lines, mut bytes) = (0_u64, 0_u64, 0_u64);
        let (mut chunk, mut in_word) = (vec![0; 64 * 1024], false);
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            for byte in &chunk[..read] {
                lines += u64::from(*byte == b'\n');
                words += u64::from(!byte.is_ascii_whitespace() && !in_word);
                in_word = !byte.is_ascii_whitespace();
            }
            bytes += read as u64;
            let percent = (bytes * 100 / size).min(100) as u8;
            // An error here means that the task was cancelled: `?` ends the work.
            ctx.progress(percent, "Counting", &format!("{bytes} of {size} bytes"))?;
        }
        Ok(Outcome::done(
            json!({ "words": words, "lines": lines, "bytes": bytes }),
        ))
    }
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: cargo run --example word_count -- FILE");
        return ExitCode::from(2);
    };
    match count(&path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("word_count: {error}");
            ExitCode::FAILURE
        }
    }
}

fn count(path: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut registry = ExecutorRegistry::new();
    // It holds its worker until the file is read, so it is registered as blocking.
    registry.typed_blocking("word-count", WordCount::count);
    let system = TaskSystem::start(&Config::default(), registry)?;
    let session: SessionKey = "example".parse()?;
    let task = NewTask::new("Count words")
        .kind("word-count")
        .metadata(&json!({ "path": path }));
    let id = system.execution().submit(&session, task)?.id;
    let ended = loop {
        let task = system.tasks().get(&session, id)?;
        println!("{:>3} %  {}", task.progress, task.status);
        if task.status.is_final() {
            break task;
        }
        sleep(Duration::from_millis(50));
    };
    system.stop();
    match (ended.result, ended.error) {
        (Some(result), _) => println!("{result}"),
        (None, error) => return Err(error.unwrap_or_default().to_string().into()),
    }
    Ok(())
}
