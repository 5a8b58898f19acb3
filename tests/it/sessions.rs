use std::time::Duration;

use serde_json::json;

use crate::support::{Client, NO_TASK, Reply, TestServer, wait_until_every};

/// Where the request says which session it is for.
#[derive(Clone, Copy)]
enum Place {
    Header,
    Query,
    Cookie,
}

fn ask(client: &Client, keys: &[(Place, &str)]) -> Reply {
    let query = keys.iter().find(|(place, _)| matches!(place, Place::Query));
    let path = query.map_or("/tasks".to_owned(), |(_, key)| {
        format!("/tasks?session={key}")
    });
    keys.iter()
        .fold(
            client.call("GET", &path),
            |call, (place, key)| match place {
                Place::Header => call.header("X-App-Session", key),
                Place::Query => call,
                Place::Cookie => call
                    .header("Cookie", "z=y")
                    .header("Cookie", &format!("a=b; app_session={key}; c=d")),
            },
        )
        .send()
}

fn key(client: &Client, keys: &[(Place, &str)]) -> String {
    let reply = ask(client, keys).expect(200);
    reply.header("X-App-Session").expect("a session").to_owned()
}

fn forwarded(client: &Client, addresses: &[&str]) -> String {
    let call = addresses
        .iter()
        .fold(client.call("GET", "/tasks"), |call, list| {
            call.header("X-Forwarded-For", list)
        });
    let reply = call.send().expect(200);
    reply.header("X-App-Session").expect("a session").to_owned()
}

fn is_address_key(key: &str) -> bool {
    let digits = key.strip_prefix("ip_").unwrap_or_default();
    let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    digits.len() == 16 && digits.bytes().all(is_hex)
}

#[test]
fn the_header_goes_before_the_query_before_the_cookie_before_the_address() {
    use Place::{Cookie, Header, Query};
    let server = TestServer::start(&[]);
    let all = [
        (Header, "from-header"),
        (Query, "from-query"),
        (Cookie, "from-cookie"),
    ];
    assert_eq!(key(&server, &all), "from-header");
    assert_eq!(key(&server, &all[1..]), "from-query");
    assert_eq!(key(&server, &all[2..]), "from-cookie");
    assert!(is_address_key(&key(&server, &[])));
}

#[test]
fn every_route_of_a_session_takes_and_tells_its_key() {
    let server = TestServer::start(&[]);
    let me = server.session("me");
    let id = me.create(json!({ "name": "n", "type": "fails" }));
    let told = |reply: Reply| assert_eq!(reply.header("X-App-Session"), Some("me"), "{reply}");
    for path in ["", "/status", "/history"] {
        told(me.get(&format!("/tasks/{id}{path}")).expect(200));
    }
    for path in ["/tasks", "/tasks/stats", "/tasks/cleanup/status", "/health"] {
        told(me.get(path).expect(200));
    }
    told(me.act(&format!("/tasks/{id}/start")).expect(200));
    me.wait_status(&id, "failed");
    told(me.act(&format!("/tasks/{id}/retry")).expect(200));
    told(me.act("/tasks/cleanup/run").expect(200));
    told(
        me.post("/demo/tasks/sample", json!({ "speed": 1000 }))
            .expect(201),
    );
    told(me.get("/tasks/nothing").expect(404));
    told(me.post("/tasks", json!({})).expect(400));
}

#[test]
fn explicit_keys_take_only_what_the_contract_lists() {
    use Place::{Cookie, Header, Query};
    let server = TestServer::start(&[]);
    let longest = "k".repeat(128);
    for good in ["a", "A-z.0_9:x", &longest] {
        for place in [Header, Query, Cookie] {
            assert_eq!(key(&server, &[(place, good)]), good);
        }
    }
    let too_long = "k".repeat(129);
    for place in [Header, Query, Cookie] {
        for bad in ["a/b", "a*b", "", &too_long] {
            let reply = ask(&server, &[(place, bad)]);
            reply.expect_problem(400, "invalid_session_key");
        }
    }
    ask(&server, &[(Query, "%C3%A4")]).expect_problem(400, "invalid_session_key");
    ask(&server, &[(Query, "a%20b")]).expect_problem(400, "invalid_session_key");
    ask(&server, &[(Query, "a%0Ab")]).expect_problem(400, "invalid_session_key");
    let both = [(Header, "not valid"), (Query, "valid")];
    ask(&server, &both).expect_problem(400, "invalid_session_key");
    server
        .call("POST", "/tasks?session=%2F")
        .json(&json!({ "name": "n" }))
        .send()
        .expect_problem(400, "invalid_session_key");
}

#[test]
fn an_address_key_is_the_same_all_day_but_not_on_another_server() {
    let (one, other) = (TestServer::start(&[]), TestServer::start(&[]));
    assert!(is_address_key(&one.key()), "{}", one.key());
    assert_eq!(one.key(), one.key());
    assert_ne!(one.key(), other.key());
}

#[test]
fn without_address_keys_the_default_session_serves_who_names_none() {
    let plain = TestServer::start(&[("AUTO_MAP_SESSION_BY_IP", "false")]);
    assert_eq!(plain.key(), "default");
    let variables = [
        ("AUTO_MAP_SESSION_BY_IP", "false"),
        ("DEFAULT_SESSION", "lobby"),
    ];
    let named = TestServer::start(&variables);
    assert_eq!(named.key(), "lobby");
    assert_eq!(named.session("own").key(), "own");
}

#[test]
fn a_client_without_a_trusted_proxy_cannot_choose_its_address() {
    let server = TestServer::start(&[]);
    let own = server.key();
    assert_eq!(forwarded(&server, &["203.0.113.7"]), own);
    assert_eq!(forwarded(&server, &["203.0.113.7, 203.0.113.8"]), own);
}

#[test]
fn behind_one_proxy_the_address_is_the_one_that_it_saw() {
    let server = TestServer::start(&[("TRUSTED_PROXIES", "1")]);
    let client = forwarded(&server, &["203.0.113.7"]);
    assert!(is_address_key(&client));
    assert_ne!(client, server.key());
    assert_ne!(client, forwarded(&server, &["203.0.113.8"]));
    for same in [
        "198.51.100.1, 203.0.113.7",
        "x,203.0.113.7",
        "::ffff:203.0.113.7",
    ] {
        assert_eq!(forwarded(&server, &[same]), client, "{same}");
    }
    assert_eq!(forwarded(&server, &["198.51.100.1", "203.0.113.7"]), client);
    assert_ne!(forwarded(&server, &["2001:db8::1"]), client);
}

#[test]
fn behind_two_proxies_the_address_is_the_one_that_the_outer_saw() {
    let server = TestServer::start(&[("TRUSTED_PROXIES", "2")]);
    let client = forwarded(&server, &["203.0.113.7, 10.0.0.1"]);
    assert_eq!(
        forwarded(&server, &["198.51.100.9, 203.0.113.7, 10.0.0.2"]),
        client
    );
    assert_eq!(
        forwarded(&server, &["198.51.100.9, 203.0.113.7", "10.0.0.2"]),
        client
    );
    assert_ne!(forwarded(&server, &["203.0.113.8, 10.0.0.1"]), client);
}

#[test]
fn an_ipv4_client_of_an_ipv6_socket_is_its_ipv4_address() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        return; // This machine has no IPv6.
    }
    let server = TestServer::start(&[("HOST", "::"), ("TRUSTED_PROXIES", "1")]);
    let mapped = Client::new(([127, 0, 0, 1], server.addr().port()).into());
    assert_eq!(mapped.key(), forwarded(&mapped, &["127.0.0.1"]));
}

#[test]
fn a_session_sees_counts_cleans_and_controls_only_its_own_tasks() {
    let variables = [("MAX_FAILED_TASKS", "0"), ("MAX_COMPLETED_TASKS", "0")];
    let server = TestServer::start(&variables);
    let (ann, bob) = (server.session("ann"), server.session("bob"));
    let pending = ann.create(json!({ "name": "secret" }));
    let failed = ann.run_to("fails", "failed");
    for id in [&pending, &failed] {
        for path in ["", "/status", "/history"] {
            let reply = bob.get(&format!("/tasks/{id}{path}"));
            let reply = reply.expect_problem(404, "task_not_found");
            assert_eq!(reply.message(), "Task not found");
        }
        for action in ["start", "cancel", "retry"] {
            bob.act(&format!("/tasks/{id}/{action}"))
                .expect_problem(404, "task_not_found");
        }
    }
    assert_eq!(bob.total(), 0);
    assert_eq!(bob.get("/tasks/stats").json()["stats"]["total"], 0);
    assert_eq!(
        bob.act("/tasks/cleanup/run").expect(200).json()["cleanedCount"],
        0
    );
    let list = bob.get(&format!("/tasks?cursor={failed}")).expect(200);
    assert_eq!(list.json()["tasks"], json!([]));
    assert_eq!(ann.total(), 2);
    assert_eq!(ann.task(&pending)["status"], "pending");
    assert_eq!(
        ann.act("/tasks/cleanup/run").expect(200).json()["cleanedCount"],
        1
    );
}

#[test]
fn an_idle_session_is_dropped_with_its_tasks() {
    let server = TestServer::start(&[("SESSION_TIMEOUT", "300")]);
    let me = server.session("me");
    let id = me.create(json!({ "name": "n" }));
    // Each look is a use: it must come later than the timeout after the one before.
    wait_until_every(Duration::from_millis(450), || {
        me.get(&format!("/tasks/{id}")).status == 404
    });
    assert_eq!(me.total(), 0);
}

#[test]
fn a_session_in_use_or_with_work_in_flight_is_not_dropped() {
    let server = TestServer::start(&[("SESSION_TIMEOUT", "500"), ("WORKER_THREADS", "1")]);
    let used = server.session("used");
    let (working, queueing) = (server.session("working"), server.session("queueing"));
    let kept = used.create(json!({ "name": "n" }));
    // Blocked, it reports nothing that would count as a use.
    let running = working.run("blocked");
    working.wait_step(&running, "Blocking");
    let queued = queueing.run("blocked");
    for _ in 0..15 {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(used.task(&kept)["status"], "pending");
    }
    assert_eq!(working.task(&running)["status"], "running");
    assert_eq!(queueing.task(&queued)["status"], "pending");
    server.gate.open();
    working.wait_status(&running, "completed");
    queueing.wait_status(&queued, "completed");
}

#[test]
fn at_the_limit_the_longest_idle_session_makes_room() {
    let server = TestServer::start(&[("MAX_SESSIONS", "2")]);
    let pause = || std::thread::sleep(Duration::from_millis(20));
    let first = server.session("first");
    let second = server.session("second");
    let in_first = first.create(json!({ "name": "n" }));
    pause();
    let in_second = second.create(json!({ "name": "n" }));
    pause();
    first.task(&in_first);
    pause();
    server.session("third").create(json!({ "name": "n" }));
    assert_eq!(first.task(&in_first)["name"], "n");
    second
        .get(&format!("/tasks/{in_second}"))
        .expect_problem(404, "task_not_found");
}

#[test]
fn where_every_session_works_there_is_no_room_for_another() {
    let server = TestServer::start(&[("MAX_SESSIONS", "1"), ("WORKER_THREADS", "2")]);
    let busy = server.session("busy");
    let held = busy.run("held");
    let late = server.session("late");
    for (path, body) in [
        ("/tasks", json!({ "name": "n" })),
        ("/demo/tasks/sample", json!({})),
    ] {
        let reply = late
            .post(path, body)
            .expect_problem(503, "too_many_sessions");
        assert!(reply.retry_after() >= 1);
    }
    assert_eq!(busy.task(&held)["status"], "running");
    server.gate.open();
    busy.wait_status(&held, "completed");
    late.create(json!({ "name": "n" }));
}

#[test]
fn without_isolation_the_task_system_is_off_and_says_why() {
    let server = TestServer::start(&[("ENABLE_SESSION_ISOLATION", "false")]);
    let gets = ["/tasks", "/tasks/stats", "/tasks/cleanup/status"].map(str::to_owned);
    let task = ["", "/status", "/history"].map(|end| format!("/tasks/{NO_TASK}{end}"));
    for path in gets.iter().chain(&task) {
        let reply = server.get(path).expect_problem(503, "task_system_disabled");
        assert!(
            reply.message().contains("ENABLE_SESSION_ISOLATION"),
            "{reply}"
        );
    }
    let posts = ["/tasks/cleanup/run".to_owned(), "/tasks".to_owned()];
    let acts = ["start", "cancel", "retry"].map(|act| format!("/tasks/{NO_TASK}/{act}"));
    let kinds = ["sample", "file-processing", "api-call", "batch", "workflow"];
    let demos = kinds.map(|kind| format!("/demo/tasks/{kind}"));
    for path in posts.iter().chain(&acts).chain(&demos) {
        let reply = server.post(path, json!({ "name": "n" }));
        let reply = reply.expect_problem(503, "task_system_disabled");
        assert!(
            reply.message().contains("ENABLE_SESSION_ISOLATION"),
            "{reply}"
        );
    }
}
