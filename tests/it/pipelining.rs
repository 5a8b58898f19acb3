use std::io::{BufReader, Read, Write};
use std::net::Shutdown;

use serde_json::json;

use crate::protocol::statuses;
use crate::support::{API, Reply, TestServer};

#[test]
fn a_chunked_body_behind_other_requests_is_read_whole() {
    let server = TestServer::start(&[]);
    for length in [1, 100, 900, 1_100, 5_000] {
        let body = json!({ "name": "last", "description": "x".repeat(length % 1_500) }).to_string();
        let body = format!("{body}{}", " ".repeat(length));
        let get = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\n\r\n";
        let half = body.len() / 2;
        let all = format!(
            "{get}{get}POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             X-App-Session: behind\r\nTransfer-Encoding: chunked\r\n\r\n\
             {half:x}\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n{get}",
            &body[..half],
            body.len() - half,
            &body[half..]
        );
        assert_eq!(statuses(&server, &all), [200, 200, 201, 200], "{length}");
    }
    assert_eq!(server.session("behind").total(), 5);
}

#[test]
fn pipelined_requests_are_answered_in_order_each_with_its_own_answer() {
    let server = TestServer::start(&[]);
    for many in [2, 3, 10, 60] {
        let mut requests = String::new();
        for i in 0..many {
            let body = json!({ "name": format!("task {i} of {many}") }).to_string();
            requests += &format!(
                "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
                 X-Request-Id: {many}-{i}\r\nX-App-Session: pipe\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
        let socket = server.connect();
        (&socket).write_all(requests.as_bytes()).expect("sent");
        socket.shutdown(Shutdown::Write).expect("half closed");
        let mut answers = BufReader::new(socket);
        for i in 0..many {
            let answer = Reply::read(&mut answers, "POST").expect(201);
            assert_eq!(answer.header("X-Request-Id"), Some(&*format!("{many}-{i}")));
            assert_eq!(answer.json()["task"]["name"], format!("task {i} of {many}"));
        }
    }
}

/// Whatever the pieces in which requests arrive, the answers are those, in order, up to a
/// clean close.
#[test]
fn requests_in_pieces_are_never_mixed_up() {
    let server = TestServer::start(&[]);
    let request = |i: usize| {
        let body =
            json!({ "name": format!("piece {i}"), "description": "x".repeat(i * 97 % 1_500) });
        let body = body.to_string();
        let request = format!(
            "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
             X-App-Session: pieces\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        request.into_bytes()
    };
    let all: Vec<u8> = (0..12).flat_map(request).collect();
    let mut complete = 0;
    for size in [1, 7, 100, 333, 1_000, 1_024, 1_025, 3_000] {
        let socket = server.connect();
        let answers = std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in all.chunks(size) {
                    // Fails only where the server has closed already.
                    if (&socket).write_all(piece).is_err() {
                        break;
                    }
                    std::thread::yield_now();
                }
                let _ = socket.shutdown(Shutdown::Write);
            });
            let mut answers = Vec::new();
            let _ = (&socket).read_to_end(&mut answers);
            answers
        });
        let answers = String::from_utf8_lossy(&answers);
        let names: Vec<&str> = answers
            .split("\"name\":\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect();
        assert!(!names.is_empty(), "{answers}");
        for (i, name) in names.iter().enumerate() {
            assert_eq!(*name, format!("piece {i}"), "in pieces of {size}");
        }
        assert_eq!(answers.matches("HTTP/1.1 201").count(), names.len());
        assert_eq!(
            answers.matches("HTTP/1.1 ").count(),
            names.len(),
            "{answers}"
        );
        complete += usize::from(names.len() == 12);
    }
    assert!(complete > 0, "at least some arrive whole");
}

/// The parser reads bodies up to the first head alone, and the gate all that follows: each finds
/// the other's end.
#[test]
fn heads_alone_and_bodies_take_turns_in_any_pieces() {
    let server = TestServer::start(&[]);
    let request = |i: usize| match i % 3 {
        0 => {
            let body = json!({ "name": "n".repeat(1 + i * 31 % 200) }).to_string();
            let length = body.len();
            format!(
                "POST {API}/tasks HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
                 X-Request-Id: {i}\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        }
        _ => {
            let filler = "f".repeat(i * 97 % 1_200);
            format!(
                "GET {API}/tasks/stats HTTP/1.1\r\nHost: h\r\nX-F: {filler}\r\nX-Request-Id: {i}\r\n\r\n"
            )
        }
    };
    let all: String = (0..30).map(request).collect();
    let mut complete = 0;
    for size in [3, 64, 400, 1_024, 1_500, all.len()] {
        let socket = server.connect();
        let answers = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut pieces = all.as_bytes().chunks(size);
                // Fails only where the server has closed already.
                let _ = pieces.try_for_each(|piece| (&socket).write_all(piece));
                let _ = socket.shutdown(Shutdown::Write);
            });
            let mut answers = Vec::new();
            let _ = (&socket).read_to_end(&mut answers);
            String::from_utf8_lossy(&answers).into_owned()
        });
        let ids = answers
            .lines()
            .filter_map(|l| l.strip_prefix("X-Request-Id: "));
        let ids: Vec<usize> = ids.map(|id| id.parse().expect("ours")).collect();
        assert_eq!(ids, (0..ids.len()).collect::<Vec<_>>(), "{size}: {answers}");
        let fine = answers.matches("HTTP/1.1 20").count();
        assert_eq!(fine, ids.len(), "{size}: {answers}");
        complete += usize::from(fine == 30);
    }
    assert!(complete > 0, "at least some arrive whole");

    // Behind a head alone there is nothing that the gate has not seen: all arrive whole.
    for size in [1, 3, 64, 400, 1_024, 1_500, all.len()] {
        let socket = server.connect();
        let poll = request(1);
        (&socket).write_all(poll.as_bytes()).expect("sent");
        let mut answers = BufReader::new(&socket);
        assert_eq!(Reply::read(&mut answers, "GET").status, 200);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut pieces = all.as_bytes().chunks(size);
                pieces
                    .try_for_each(|piece| (&socket).write_all(piece))
                    .expect("sent");
            });
            for i in 0..30 {
                let answer = Reply::read(&mut answers, "GET");
                assert_eq!(answer.header("X-Request-Id"), Some(&*i.to_string()));
                assert_eq!(answer.status, if i % 3 == 0 { 201 } else { 200 }, "{size}");
            }
        });
    }

    // Each after the answer to the one before: nothing is ever a reason to close.
    let socket = server.connect();
    let mut answers = BufReader::new(&socket);
    for i in 0..30 {
        (&socket).write_all(request(i).as_bytes()).expect("sent");
        let answer = Reply::read(&mut answers, "GET");
        assert_eq!(answer.header("X-Request-Id"), Some(&*i.to_string()));
        assert_eq!(answer.status, if i % 3 == 0 { 201 } else { 200 });
    }
}

#[test]
fn a_body_that_no_route_wants_is_read_and_the_connection_goes_on() {
    let server = TestServer::start(&[]);
    let one = "GET /api/v1/health HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
    let two = "HEAD /api/v1/health HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n";
    let end = "GET /api/v1/tasks/stats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let all = format!("{one}{two}{}{one}{end}", "x".repeat(2_000));
    assert_eq!(statuses(&server, &all), [200, 200, 200, 200]);
}
