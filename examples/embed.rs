//! A service that embeds the server: its business code creates a task, its customers watch it.
//! `cargo run --example embed`

use std::thread::sleep;
use std::time::Duration;

use async_task_system::{
    Config, ExecutorRegistry, NewTask, Outcome, Server, SessionKey, TaskContext, TaskError,
    TaskExecutor,
};
use serde_json::json;

/// A page a slice; the pause between two holds no thread.
#[derive(Default)]
struct Report {
    pages: u8,
}

impl TaskExecutor for Report {
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        if self.pages == 5 {
            return Ok(Outcome::done(json!({ "pages": self.pages })));
        }
        self.pages += 1;
        ctx.progress(self.pages * 20, &format!("Page {}", self.pages), "")?;
        Ok(Outcome::Again(Duration::from_millis(200)))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut registry = ExecutorRegistry::new();
    registry.register("report", |_input| Ok(Report::default()));
    let server = Server::start(Config::from_pairs([("PORT", "0")])?, registry)?;

    let customer: SessionKey = "customer-42".parse()?;
    let task = NewTask::new("Monthly report").kind("report");
    let id = server.system().execution().submit(&customer, task)?.id;
    println!(
        "curl -H 'X-App-Session: {customer}' http://{}/api/v1/tasks/{id}",
        server.local_addr()
    );
    loop {
        let task = server.system().tasks().get(&customer, id)?;
        println!("{:>3} %  {}", task.progress, task.status);
        if task.status.is_final() {
            println!(
                "{}",
                task.result.map_or("no result".into(), |r| r.to_string())
            );
            break;
        }
        sleep(Duration::from_millis(200));
    }
    server.stop();
    Ok(())
}
