use serde_json::{Value, json};

use crate::support::{Client, TestServer, id_of, keys, pluck};

fn ids(reply: &Value) -> Vec<String> {
    pluck(reply["tasks"].as_array().expect("tasks is a list"), "id")
}

fn list(client: &Client, query: &str) -> Value {
    client.get(&format!("/tasks{query}")).expect(200).json()
}

#[test]
fn lists_come_newest_first_in_pages_that_new_tasks_do_not_shift() {
    let server = TestServer::start(&[]);
    let mut made: Vec<_> = (0..5)
        .map(|n| server.create(json!({ "name": format!("n{n}") })))
        .collect();
    assert!(
        made.is_sorted(),
        "the order of ids is the order of creation"
    );
    made.reverse();
    let whole = list(&server, "");
    assert_eq!(
        keys(&whole),
        ["count", "nextCursor", "success", "tasks", "total"]
    );
    assert_eq!(ids(&whole), made);
    assert_eq!((&whole["count"], &whole["total"]), (&json!(5), &json!(5)));
    assert!(whole["nextCursor"].is_null() && whole["success"] == true);
    let mut seen = Vec::new();
    let mut query = "?limit=2".to_owned();
    for (count, total) in [(2, 5), (2, 6), (1, 7)] {
        let page = list(&server, &query);
        assert_eq!(
            (&page["count"], &page["total"]),
            (&json!(count), &json!(total))
        );
        seen.extend(ids(&page));
        server.create(json!({ "name": "later" }));
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, made);
    assert_eq!(list(&server, "?limit=1000")["count"], 8);
    let exact = list(&server, "?limit=8");
    assert!(exact["nextCursor"].is_null(), "the last page has no cursor");
}

#[test]
fn a_list_has_a_hundred_tasks_where_no_limit_is_given() {
    let server = TestServer::start(&[]);
    for n in 0..101 {
        server.create(json!({ "name": format!("{n}") }));
    }
    let page = list(&server, "");
    assert_eq!((&page["count"], &page["total"]), (&json!(100), &json!(101)));
    let cursor = page["nextCursor"].as_str().expect("a cursor");
    let rest = list(&server, &format!("?cursor={cursor}"));
    assert_eq!(
        (&rest["count"], &rest["nextCursor"]),
        (&json!(1), &Value::Null)
    );
}

#[test]
fn answers_too_large_for_one_piece_come_whole() {
    let server = TestServer::start(&[]);
    let note = "x".repeat(40_000);
    let mut made: Vec<_> = (0..20)
        .map(|n| {
            let kind = if n % 5 == 0 { "odd" } else { "even" };
            let metadata = json!({ "type": kind, "note": note, "n": n });
            server.create(json!({ "name": "large", "metadata": metadata }))
        })
        .collect();
    made.reverse();
    for (query, count, total, ended) in [
        ("", 20, 20, true),
        ("?limit=7", 7, 20, false),
        ("?status=pending&limit=20", 20, 20, true),
        ("?type=even", 16, 16, true),
        ("?type=odd&limit=3", 3, 4, false),
    ] {
        let page = list(&server, query);
        assert_eq!(
            (&page["count"], &page["total"]),
            (&json!(count), &json!(total))
        );
        assert_eq!(page["nextCursor"].is_null(), ended, "{query}");
        let tasks = page["tasks"].as_array().expect("a list");
        assert_eq!(tasks.len(), count, "{query}");
        assert!(tasks.iter().all(|task| task["metadata"]["note"] == *note));
        if !query.contains("type") {
            assert_eq!(ids(&page), made[..count], "{query}");
        }
        if let Some(cursor) = page["nextCursor"].as_str() {
            let with = if query.contains("type") {
                "&type=odd"
            } else {
                ""
            };
            let rest = list(&server, &format!("?limit=1000&cursor={cursor}{with}"));
            assert_eq!(rest["count"], total - count, "{query}");
        }
    }
    let items: Vec<_> = (0..600).collect();
    let body = json!({ "items": items, "itemDelayMs": 0 });
    let id = id_of(&server.post("/demo/tasks/batch", body).expect(201));
    server.wait_status(&id, "completed");
    let answer = server.get(&format!("/tasks/{id}/history")).expect(200);
    assert!(answer.body.len() > 70_000, "{}", answer.body.len());
    let answer = answer.json();
    assert_eq!(
        (&answer["taskId"], &answer["success"]),
        (&json!(id), &json!(true))
    );
    let history = answer["history"].as_array().expect("a list");
    assert_eq!(answer["count"], history.len());
    for (place, entry) in history.iter().enumerate() {
        assert_eq!(entry["seq"], place + 1);
    }
}

#[test]
fn filters_choose_by_status_type_and_step_and_total_counts_them() {
    let server = TestServer::start(&[]);
    let pending = server.create(json!({ "name": "n", "metadata": { "type": "odd one" } }));
    let held = server.run("held");
    server.wait_step(&held, "Holding");
    let quick: Vec<_> = (0..3)
        .map(|_| server.run_to("quick", "completed"))
        .collect();
    let failed = server.run_to("fails", "failed");
    for (query, expected) in [
        ("?status=pending", vec![&pending]),
        ("?status=running", vec![&held]),
        ("?status=completed", vec![&quick[2], &quick[1], &quick[0]]),
        ("?status=failed,pending", vec![&failed, &pending]),
        ("?status=pending,failed&type=fails", vec![&failed]),
        ("?status=cancelled", vec![]),
        ("?type=quick", vec![&quick[2], &quick[1], &quick[0]]),
        ("?type=odd%20one", vec![&pending]),
        ("?type=odd+one", vec![&pending]),
        ("?type=none", vec![]),
        ("?currentStep=Holding", vec![&held]),
        ("?currentStep=Trying&status=failed", vec![&failed]),
        ("?currentStep=Trying&status=running", vec![]),
    ] {
        let page = list(&server, query);
        assert_eq!(ids(&page).iter().collect::<Vec<_>>(), expected, "{query}");
        assert_eq!(page["total"], expected.len(), "{query}");
        assert_eq!(page["count"], expected.len(), "{query}");
    }
    for query in ["?status=completed&limit=2", "?type=quick&limit=2"] {
        let page = list(&server, query);
        assert_eq!(
            (&page["count"], &page["total"]),
            (&json!(2), &json!(3)),
            "{query}"
        );
        let cursor = page["nextCursor"].as_str().expect("a cursor");
        let rest = list(&server, &format!("{query}&cursor={cursor}"));
        assert_eq!(ids(&rest), [quick[0].clone()], "{query}");
        assert_eq!(
            rest["total"], 3,
            "{query}: a cursor does not change the total"
        );
        assert!(rest["nextCursor"].is_null(), "{query}");
    }
}

#[test]
fn stats_count_each_status() {
    let server = TestServer::start(&[]);
    let stats = || server.get("/tasks/stats").expect(200).json();
    let empty = json!({ "success": true, "stats": {
        "total": 0, "pending": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0,
    } });
    assert_eq!(stats(), empty);
    server.create(json!({ "name": "n" }));
    let cancelled = server.create(json!({ "name": "n" }));
    server
        .act(&format!("/tasks/{cancelled}/cancel"))
        .expect(200);
    server.run_to("quick", "completed");
    server.run_to("quick", "completed");
    server.run_to("fails", "failed");
    let held = server.run("held");
    server.wait_status(&held, "running");
    let expected = json!({
        "total": 6, "pending": 1, "running": 1, "completed": 2, "failed": 1, "cancelled": 1,
    });
    assert_eq!(stats()["stats"], expected);
    server.gate.open();
    server.wait_status(&held, "completed");
    assert_eq!(stats()["stats"]["running"], 0);
}
