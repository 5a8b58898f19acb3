use serde_json::json;
use unicode_width::UnicodeWidthStr;

use crate::support::{Client, TestServer};

fn watch(client: &Client, id: &str, query: &str) -> String {
    let call = client.call("GET", &format!("/tasks/{id}/watch{query}"));
    let mut stream = call.open();
    let kind = stream.head.header("Content-Type");
    assert_eq!(kind, Some("text/plain; charset=utf-8"));
    stream.rest()
}

/// What each drawing shows, in order.
fn drawings(text: &str) -> Vec<&str> {
    text.split(['\r', '\n'])
        .filter(|line| !line.is_empty())
        .collect()
}

#[test]
fn a_bar_moves_in_place_and_the_last_line_tells_the_outcome() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    server.wait_step(&id, "Holding");
    let mut stream = server.call("GET", &format!("/tasks/{id}/watch")).open();
    assert_eq!(stream.until("\n").as_deref(), Some("held\n"));
    assert_eq!(stream.until("\r").as_deref(), Some("\r"));
    server.gate.open();
    let rest = stream.rest();
    let shown = drawings(&rest);
    assert!(
        shown[0].contains(" 40 % Holding: until the gate opens "),
        "{rest}"
    );
    let bar = |line: &str, c: char| line.chars().filter(|&x| x == c).count();
    assert_eq!((bar(shown[0], '█'), bar(shown[0], '░')), (12, 19));
    let [.., end, outcome] = shown[..] else {
        panic!("{rest}");
    };
    assert!(end.contains("100 %"), "{rest}");
    assert_eq!((bar(end, '█'), bar(end, '░')), (31, 0));
    assert!(outcome.starts_with("✔ completed in "), "{rest}");
    assert!(!rest.contains('\x1b'), "no colours unasked: {rest:?}");
    // Each drawing is over the one before, so all are as wide, and none wraps.
    assert!(
        shown[..shown.len() - 1]
            .iter()
            .all(|line| line.width() == 79)
    );
    assert_eq!(rest.matches('\n').count(), 2, "{rest:?}");
}

#[test]
fn every_outcome_has_its_line() {
    let server = TestServer::start(&[]);
    let failed = server.run_to("fails", "failed");
    let text = watch(&server, &failed, "");
    let last = drawings(&text).pop().expect("a line").to_owned();
    assert!(last.starts_with("✘ failed at 30 % in "), "{last}");
    assert!(last.ends_with(": the disk is full"), "{last}");
    let cancelled = server.create(json!({ "name": "n" }));
    server
        .act(&format!("/tasks/{cancelled}/cancel"))
        .expect(200);
    assert!(watch(&server, &cancelled, "").ends_with("■ cancelled at 0 %\n"));
}

#[test]
fn plain_lines_are_one_a_change() {
    let server = TestServer::start(&[]);
    let id = server.run("held");
    let mut stream = server
        .call("GET", &format!("/tasks/{id}/watch?plain=1"))
        .open();
    server.wait_step(&id, "Holding");
    server.gate.open();
    let text = stream.rest();
    assert!(!text.contains(['\r', '\x1b', '█']), "{text:?}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "held");
    let [.., progress, completed, outcome] = lines[..] else {
        panic!("{text}");
    };
    let (at, rest) = progress.split_once("  ").expect("a time");
    assert!(at.len() == 20 && at.ends_with('Z'), "{at}");
    assert_eq!(rest, "progress   40 %  Holding: until the gate opens");
    assert!(completed.contains("completed 100 %"), "{completed}");
    assert!(outcome.starts_with("✔ completed in "), "{outcome}");
}

#[test]
fn colours_come_only_when_asked_for() {
    let server = TestServer::start(&[]);
    let id = server.run_to("fails", "failed");
    let text = watch(&server, &id, "?color=1");
    assert!(text.contains("\x1b[31m✘ failed"), "{text:?}");
    assert_eq!(
        text.matches("\x1b[").count() % 2,
        0,
        "each is reset: {text:?}"
    );
    assert!(!watch(&server, &id, "?color=0").contains('\x1b'));
}

#[test]
fn the_width_holds_for_wide_letters_and_narrow_screens() {
    let server = TestServer::start(&[]);
    let name = "数据处理任务".repeat(20);
    let body = json!({ "name": name, "steps": [
        { "name": "第一步：读取所有的文件并检查每一行".repeat(5), "durationMs": 0 },
        { "name": "e\u{301}tape 👩‍👩‍👧 fin", "durationMs": 0 },
    ]});
    let reply = server.post("/demo/tasks/workflow", body).expect(201);
    let id = crate::support::id_of(&reply);
    server.wait_status(&id, "completed");
    for width in [20, 40, 80, 120, 500] {
        let text = watch(&server, &id, &format!("?width={width}"));
        let shown = drawings(&text);
        let [title, bars @ .., _] = &shown[..] else {
            panic!("{text}");
        };
        assert!(title.width() < width, "{title}");
        for bar in bars {
            assert_eq!(bar.width(), width - 1, "{bar}");
        }
    }
    for query in [
        "?width=19",
        "?width=501",
        "?width=wide",
        "?color=2",
        "?plan=1",
    ] {
        let reply = server.get(&format!("/tasks/{id}/watch{query}"));
        reply.expect_problem(400, "invalid_request");
    }
}

#[test]
fn no_task_can_steer_the_terminal() {
    let server = TestServer::start(&[]);
    let evil = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\u{9b}31m\u{202e}";
    let body = json!({ "name": format!("a{evil}"), "steps": [
        { "name": format!("b{evil}"), "description": format!("c{evil}"), "durationMs": 0 },
    ]});
    let reply = server.post("/demo/tasks/workflow", body).expect(201);
    let id = crate::support::id_of(&reply);
    server.wait_status(&id, "completed");
    for query in ["", "?plain=1", "?width=200"] {
        let text = watch(&server, &id, query);
        let steers = |c: char| c.is_control() && c != '\r' && c != '\n' || c == '\u{202e}';
        assert!(!text.contains(steers), "{text:?}");
        assert!(text.contains("a\\u{1b}[2J"), "{text:?}");
    }
}
