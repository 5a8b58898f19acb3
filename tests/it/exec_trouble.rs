use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{is, program};
use crate::exec::kill;
use crate::support::{TempDir, wait_until};

/// A server of the test: hands on each call, and answers it as `answer` says, or never.
fn scripted(
    mut answer: impl FnMut(&str) -> Option<(u16, Value)> + Send + 'static,
) -> (SocketAddr, Receiver<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tell, calls) = channel();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.expect("a client");
            let (path, body) = read_call(&mut socket);
            match answer(&path) {
                Some((status, answer)) => {
                    let text = answer.to_string();
                    let later = if status == 503 {
                        "Retry-After: 1\r\n"
                    } else {
                        ""
                    };
                    let _ = write!(
                        socket,
                        "HTTP/1.1 {status} X\r\n{later}Content-Length: {}\r\n\r\n{text}",
                        text.len()
                    );
                }
                None => held.push(socket),
            }
            if tell.send((path, body)).is_err() {
                return;
            }
        }
    });
    (address, calls)
}

fn read_call(socket: &mut TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(socket);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).expect("a line");
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a number");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let path = first
        .split(' ')
        .nth(1)
        .expect("a path")
        .replace("/api/v1/work/", "");
    (path, serde_json::from_slice(&body).unwrap_or_default())
}

fn claim(lease: &str) -> Option<(u16, Value)> {
    Some((
        201,
        json!({ "claim": { "lease": lease, "leaseMs": 30_000 } }),
    ))
}

#[test]
fn a_lease_that_is_lost_at_the_end_is_followed_by_another() {
    let mut leases = ["first", "second"].into_iter();
    let (address, calls) = scripted(move |path| match path {
        "adopt" => claim(leases.next().expect("two are enough")),
        "first/fail" => Some((410, json!({ "code": "lease_over", "reason": "expired" }))),
        _ => Some((200, json!({}))),
    });
    let output = program(
        address,
        &["exec", "--", "sh", "-c", "echo gone >&2; exit 7"],
    )
    .output()
    .expect("it runs");
    is(&output, 7);
    let calls: Vec<_> = calls.try_iter().collect();
    let (path, body) = calls.last().expect("calls");
    assert_eq!(
        (&**path, &body["error"]),
        ("second/fail", &json!("gone")),
        "{calls:?}"
    );
}

#[test]
fn a_server_that_falls_silent_holds_nobody() {
    // Never reached: one call's time.
    let (address, _calls) = scripted(|_| None);
    let begun = Instant::now();
    let output = program(address, &["exec", "--", "sh", "-c", "echo done; exit 3"])
        .output()
        .expect("it runs");
    assert_eq!(is(&output, 3), "done\n");
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );

    // Silent at the end: a signal ends the wait, and the exit code is still the command's.
    let (address, calls) = scripted(|path| match path {
        "adopt" => claim("a"),
        _ => None,
    });
    let mut child = program(address, &["exec", "--", "sh", "-c", "exit 4"])
        .spawn()
        .expect("it runs");
    let wait = Duration::from_secs(20);
    while calls.recv_timeout(wait).expect("a call").0 != "a/fail" {}
    kill("TERM", &child.id().to_string());
    let begun = Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );

    // Without a signal, the last report has its ten seconds.
    let mut child = program(address, &["exec", "--", "sh", "-c", "exit 5"])
        .spawn()
        .expect("it runs");
    let begun = Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(5));
    assert!(
        begun.elapsed() < Duration::from_secs(16),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_slow_server_delays_nothing_and_misses_counted_lines() {
    let dir = TempDir::new();
    let mark = dir.file("ended");
    let ended = mark.clone();
    // It answers once the command is through.
    let (address, calls) = scripted(move |path| {
        if path == "adopt" {
            return claim("a");
        }
        wait_until(|| ended.exists());
        Some((200, json!({})))
    });
    let script = format!("seq 200000; touch {}", mark.display());
    let output = program(address, &["exec", "--", "sh", "-c", &script])
        .output()
        .expect("it runs");
    assert_eq!(is(&output, 0).lines().count(), 200_000);
    let (mut sent, mut dropped) = (0, 0);
    for (_, body) in calls.try_iter() {
        for line in body["log"].as_array().unwrap_or(&Vec::new()) {
            let line = line.as_str().expect("a text");
            match line.strip_prefix("[not sent to a server that was slow or away: ") {
                Some(rest) => {
                    dropped += rest
                        .split(' ')
                        .next()
                        .expect("a word")
                        .parse::<u64>()
                        .expect("a number")
                }
                None => sent += 1,
            }
        }
    }
    assert_eq!(sent + dropped, 200_000);
    assert!(dropped > 100_000, "{dropped}");
}

#[test]
fn a_server_that_stops_while_it_takes_the_task_ends_no_command() {
    let mut answers = vec![
        claim("a"),
        Some((
            503,
            json!({ "code": "server_stopping", "message": "The server is stopping" }),
        )),
    ];
    let (address, calls) = scripted(move |path| match path {
        "adopt" => answers.pop().unwrap_or_default(),
        _ => Some((200, json!({}))),
    });
    let words = ["exec", "--", "sh", "-c", "sleep 4; echo done"];
    let output = program(address, &words).output().expect("it runs");
    assert_eq!(is(&output, 0), "done\n");
    let (path, _) = calls.try_iter().last().expect("calls");
    assert_eq!(path, "a/complete");
}

#[test]
fn a_cancel_that_comes_while_the_task_is_taken_ends_the_command() {
    let over = || Some((410, json!({ "code": "lease_over", "reason": "cancelled" })));
    let (address, _calls) = scripted(move |path| match path {
        "adopt" => over(),
        _ => Some((200, json!({}))),
    });
    let words = ["exec", "--", "sh", "-c", "sleep 1000"];
    let output = program(address, &words).output().expect("it runs");
    is(&output, 143);
}
