use serde_json::{Value, json};

use crate::support::{Client, Reply, TestServer};

fn post(client: &Client, path: &str, key: &str, body: &Value) -> Reply {
    let call = client.call("POST", path).header("Idempotency-Key", key);
    call.json(body).send()
}

fn is_replay(reply: &Reply) -> bool {
    reply.header("Idempotency-Replayed") == Some("true")
}

#[test]
fn a_repeat_gets_the_first_answer_again_and_creates_nothing() {
    let server = TestServer::start(&[]);
    let step = json!({ "name": "a", "durationMs": 1 });
    for (number, (path, body)) in [
        ("/tasks", json!({ "name": "n" })),
        (
            "/tasks",
            json!({ "name": "n", "type": "quick", "start": true }),
        ),
        ("/demo/tasks/sample", json!({ "speed": 1000 })),
        (
            "/demo/tasks/file-processing",
            json!({ "filePath": "f", "speed": 1000 }),
        ),
        (
            "/demo/tasks/api-call",
            json!({ "endpoint": "e", "speed": 1000 }),
        ),
        ("/demo/tasks/batch", json!({ "items": [1] })),
        (
            "/demo/tasks/workflow",
            json!({ "name": "w", "steps": [step] }),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let key = format!("key-{number}");
        let first = post(&server, path, &key, &body).expect(201);
        assert!(first.header("Idempotency-Replayed").is_none(), "{path}");
        for _ in 0..2 {
            let again = post(&server, path, &key, &body).expect(201);
            assert!(is_replay(&again), "{path}: {again}");
            assert_eq!(again.text(), first.text(), "{path}");
            assert_eq!(again.header("Location"), first.header("Location"), "{path}");
        }
        assert_eq!(server.total(), number as u64 + 1, "{path}");
    }
}

#[test]
fn a_key_with_another_body_is_refused() {
    let server = TestServer::start(&[]);
    post(&server, "/tasks", "k", &json!({ "name": "one" })).expect(201);
    let reply = post(&server, "/tasks", "k", &json!({ "name": "two" }));
    reply.expect_problem(422, "idempotency_key_reused");
    assert_eq!(server.total(), 1);
    post(&server, "/tasks", "other", &json!({ "name": "two" })).expect(201);
}

#[test]
fn a_key_counts_only_within_its_session() {
    let server = TestServer::start(&[]);
    for name in ["ann", "bob"] {
        let client = server.session(name);
        let reply = post(&client, "/tasks", "k", &json!({ "name": name })).expect(201);
        assert!(!is_replay(&reply));
        assert_eq!(client.total(), 1);
    }
}

#[test]
fn a_key_has_1_to_255_characters() {
    let server = TestServer::start(&[]);
    let body = json!({ "name": "n" });
    post(&server, "/tasks", &"k".repeat(255), &body).expect(201);
    for bad in ["", &"k".repeat(256)] {
        post(&server, "/tasks", bad, &body).expect(400);
    }
    assert_eq!(server.total(), 1);
}

#[test]
fn a_refused_request_can_be_mended_and_sent_again_with_its_key() {
    let variables = [("MAX_TASKS_PER_SESSION", "1"), ("MAX_COMPLETED_TASKS", "0")];
    let server = TestServer::start(&variables);
    post(&server, "/tasks", "a", &json!({})).expect(400);
    let quick = json!({ "name": "n", "type": "quick", "start": true });
    let reply = post(&server, "/tasks", "a", &quick).expect(201);
    server.wait_status(&crate::support::id_of(&reply), "completed");
    let body = json!({ "name": "n" });
    post(&server, "/tasks", "b", &body).expect(429);
    server.act("/tasks/cleanup/run").expect(200);
    let reply = post(&server, "/tasks", "b", &body).expect(201);
    assert!(!is_replay(&reply));
}

#[test]
fn of_many_at_the_same_time_one_creates() {
    let server = TestServer::start(&[]);
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| post(&server, "/tasks", "k", &json!({ "name": "n" }))))
            .collect();
        let replies = threads.into_iter().map(|thread| thread.join());
        replies.map(|reply| reply.expect("an answer")).collect()
    });
    let created = replies.iter().filter(|r| r.status == 201 && !is_replay(r));
    assert_eq!(created.count(), 1);
    for reply in &replies {
        assert!(reply.status == 409 || reply.status == 201, "{reply}");
    }
    assert_eq!(server.total(), 1);
}
