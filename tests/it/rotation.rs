//! SIGHUP and SIGUSR1: the audit log is opened anew, and nothing stops.

use serde_json::json;

use crate::support::{FREE_PORT, Process, TempDir, id_of, json_lines, wait_until};

fn run_one(process: &Process) -> String {
    let body = json!({ "delayMs": 0 });
    let id = id_of(&process.client.post("/demo/tasks/sample", body).expect(201));
    process.client.wait_status(&id, "completed");
    id
}

#[test]
fn a_rotated_audit_log_is_opened_anew_and_running_tasks_go_on() {
    for signal in ["HUP", "USR1"] {
        let dir = TempDir::new();
        let mut process = Process::start(&dir, &[FREE_PORT, ("AUDIT_LOG", "audit.log")]);
        let long = json!({ "delayMs": 60_000 });
        let running = id_of(&process.client.post("/demo/tasks/sample", long).expect(201));
        process.client.wait_status(&running, "running");
        let before = run_one(&process);
        std::fs::rename(dir.file("audit.log"), dir.file("audit.log.1")).expect("moved");
        process.signal(signal);
        wait_until(|| process.has("The audit log was opened anew"));
        let after = run_one(&process);
        process.client.wait_status(&running, "running");
        process.signal("TERM");
        assert_eq!(process.ended().0, Some(0), "{:?}", process.log());
        let of = |file: &str, id: &str| {
            let lines = json_lines(&dir.file(file));
            lines.iter().filter(|line| line["taskId"] == id).count()
        };
        assert_eq!(of("audit.log", &before), 0);
        assert_eq!(of("audit.log.1", &after), 0);
        assert!(of("audit.log.1", &before) > 3 && of("audit.log", &after) > 3);
    }
}

#[test]
fn without_an_audit_log_the_signals_do_nothing() {
    let dir = TempDir::new();
    let mut process = Process::start(&dir, &[FREE_PORT]);
    process.signal("HUP");
    process.signal("USR1");
    run_one(&process);
    process.signal("TERM");
    assert_eq!(process.ended().0, Some(0), "{:?}", process.log());
    assert!(process.has("[INFO] Stopped"), "{:?}", process.log());
}

#[test]
fn where_the_new_file_cannot_be_made_the_old_one_goes_on() {
    let dir = TempDir::new();
    std::fs::create_dir(dir.file("logs")).expect("made");
    let process = Process::start(&dir, &[FREE_PORT, ("AUDIT_LOG", "logs/audit.log")]);
    std::fs::rename(dir.file("logs"), dir.file("moved")).expect("moved");
    process.signal("HUP");
    wait_until(|| process.has("[ERROR] The audit log cannot be opened anew"));
    let id = run_one(&process);
    let file = dir.file("moved/audit.log");
    wait_until(|| {
        json_lines(&file)
            .iter()
            .any(|line| line["taskId"] == id && line["event"] == "completed")
    });
}
