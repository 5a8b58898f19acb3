//! Scenes: plays of several demo tasks.

use std::path::Path;

use serde_json::{Value, json};

use crate::browser::has;
use crate::support::tour;
use crate::support::{
    Client, FREE_PORT, Process, TempDir, TestServer, id_of, run, stderr, wait_until,
};

const SCENES: &str = "/demo/scenes";

/// A sample that is done at once.
fn quick(body: Value) -> Value {
    let mut body = body;
    body["delayMs"] = json!(10);
    body
}

fn start(client: &Client, name: &str) {
    client.act(&format!("{SCENES}/{name}/start")).expect(200);
}

fn is_playing(client: &Client, name: &str) -> bool {
    let scenes = client.get(SCENES).expect(200).json();
    let scenes = scenes["scenes"].as_array().expect("a list").clone();
    let own = scenes.iter().find(|scene| scene["name"] == name);
    own.is_some_and(|scene| scene["playing"] == true)
}

/// The session's tasks, the oldest first.
fn tasks(client: &Client) -> Vec<Value> {
    let mut tasks = client.get("/tasks").expect(200).json()["tasks"]
        .as_array()
        .expect("a list")
        .clone();
    tasks.reverse();
    tasks
}

#[test]
fn a_scene_creates_retries_and_cancels_at_its_times() {
    let server = TestServer::start(&[]);
    let client = server.session("stage");
    let scene = json!({ "name": "fair", "acts": [
        { "demo": "sample", "body": quick(json!({ "failAt": 50 })) },
        // Whenever the first has failed: it is tried again until then.
        { "retry": 1 },
        { "afterMs": 200, "demo": "sample", "body": { "delayMs": 60_000, "description": "The long one" } },
        { "afterMs": 300, "cancel": 3 },
    ] });
    let kept = client.post(SCENES, scene.clone()).expect(201);
    assert_eq!(kept.header("Location"), Some("/api/v1/demo/scenes/fair"));
    let listed = json!({
        "name": "fair", "source": "session", "loop": false, "speed": 1, "acts": 4, "durationMs": 300, "playing": false
    });
    assert_eq!(kept.json()["scene"], listed);
    assert_eq!(
        client.get(&format!("{SCENES}/fair")).expect(200).json(),
        scene
    );
    start(&client, "fair");
    wait_until(|| !is_playing(&client, "fair"));
    let tasks = tasks(&client);
    assert_eq!(tasks.len(), 2);
    let first = client.wait_status(tasks[0]["id"].as_str().expect("an id"), "completed");
    assert_eq!(first["attempt"], 2);
    assert_eq!(
        (&tasks[1]["status"], &tasks[1]["description"]),
        (&json!("cancelled"), &json!("The long one"))
    );
    let times = [&tasks[0], &tasks[1]].map(|task| task["createdAt"].as_u64().expect("a time"));
    assert!(times[1] - times[0] >= 150, "{times:?}");
}

#[test]
fn a_loop_begins_anew_when_its_tasks_have_ended_until_it_is_stopped() {
    let server = TestServer::start(&[]);
    let client = server.session("fair");
    let acts = json!([{ "demo": "sample", "body": { "delayMs": 1_000 } }]);
    let scene = json!({ "name": "loop", "loop": true, "speed": 100, "acts": acts });
    client.post(SCENES, scene).expect(201);
    start(&client, "loop");
    wait_until(|| client.total() == 2);
    // The speed is also that of its tasks.
    let task = tasks(&client).remove(0);
    assert_eq!(task["metadata"]["speed"], 100);
    let stopped = client
        .act(&format!("{SCENES}/loop/stop"))
        .expect(200)
        .json();
    assert_eq!(stopped["scene"]["playing"], false);
    client.wait_status("latest", "completed");
    // A play that has been stopped does nothing more, also where its turn was due.
    start(&client, "loop");
    client
        .call("DELETE", &format!("{SCENES}/loop"))
        .send()
        .expect(204);
    let before = client.total();
    client.act("/demo/tasks/sample").expect(201);
    client.wait_status("latest", "completed");
    assert!(client.total() <= before + 2);
    client.get(&format!("{SCENES}/loop")).expect(404);
}

#[test]
fn a_started_scene_that_is_started_again_plays_from_its_begin() {
    let server = TestServer::start(&[]);
    let client = server.session("again");
    let late = json!({ "afterMs": 3_600_000, "demo": "sample" });
    let scene =
        json!({ "name": "late", "acts": [{ "demo": "sample", "body": quick(json!({})) }, late] });
    client.post(SCENES, scene).expect(201);
    for count in 1..=3 {
        start(&client, "late");
        wait_until(|| client.total() == count);
        assert!(is_playing(&client, "late"));
    }
    // Another session knows nothing of it.
    let other = server.session("other");
    other.get(&format!("{SCENES}/late")).expect(404);
    // With the session its plays are gone.
    client.call("DELETE", "/session").send().expect(204);
    assert!(!is_playing(&client, "late"));
    client.act(&format!("{SCENES}/late/start")).expect(404);
}

#[test]
fn every_mistake_in_a_scene_is_named() {
    let server = TestServer::start(&[]);
    let client = server.session("wrong");
    let acts = json!([
        { "afterMs": -1, "demo": "smple" },
        { "demo": "batch", "body": { "speed": 0 } },
        { "retry": 1, "cancel": 2 },
        { "retry": 3 },
        { "cancel": 9, "x": 1 },
        4,
        {},
    ]);
    let refused = client
        .post(SCENES, json!({ "name": "a b", "acts": acts }))
        .expect(400)
        .json();
    let errors = refused["errors"].as_array().expect("errors");
    let fields: Vec<_> = errors
        .iter()
        .filter_map(|error| error["field"].as_str())
        .collect();
    assert_eq!(
        fields,
        [
            "name",
            "acts[0].afterMs",
            "acts[0].demo",
            "acts[1].body.items",
            "acts[1].body.speed",
            "acts[2].demo",
            "acts[3].retry",
            "acts[4].cancel",
            "acts[4].x",
            "acts[5]",
            "acts[6].demo"
        ]
    );
    client
        .post(SCENES, json!({ "name": "empty", "acts": [] }))
        .expect(400);
    client.get("/demo/scene?name=a%20b").expect(400);
    assert_eq!(
        client.get("/demo/scene").expect(409).json()["code"],
        "nothing_to_record"
    );
    assert_eq!(
        client.get(&format!("{SCENES}/none")).expect(404).json()["code"],
        "scene_not_found"
    );
}

#[test]
fn scenes_are_charged_and_have_a_limit() {
    let server = TestServer::start(&[]);
    let client = server.session("many");
    let scene = |name: &str, acts: usize| json!({ "name": name, "acts": vec![json!({ "demo": "sample" }); acts] });
    let bytes = || server.system().tasks().bytes();
    client.post(SCENES, scene("big", 1)).expect(201);
    let small = bytes();
    client.post(SCENES, scene("big", 1_000)).expect(201);
    assert!(bytes() > small + 10_000);
    client.post(SCENES, scene("big", 1)).expect(201);
    assert_eq!(bytes(), small);
    for n in 1..100 {
        client.post(SCENES, scene(&n.to_string(), 1)).expect(201);
    }
    assert_eq!(
        client.post(SCENES, scene("one-more", 1)).expect(409).json()["code"],
        "scene_limit"
    );
    client.post(SCENES, scene("big", 2)).expect(201);
    client.call("DELETE", "/session").send().expect(204);
    assert_eq!(bytes(), 0);
}

#[test]
fn a_session_is_written_down_as_a_scene_that_plays_the_same() {
    let server = TestServer::start(&[]);
    let client = server.session("first");
    let steps = json!([{ "name": "Pack", "durationMs": 5, "progress": 30 }, { "name": "Send", "durationMs": 5 }]);
    let workflow =
        json!({ "name": "Order", "description": "to the door", "failAt": 30, "steps": steps });
    let id = id_of(&client.post("/demo/tasks/workflow", workflow).expect(201));
    client.wait_status(&id, "failed");
    client.act(&format!("/tasks/{id}/retry")).expect(200);
    client.wait_status(&id, "completed");
    client
        .post(
            "/demo/tasks/batch",
            json!({ "items": ["a", "b"], "itemDelayMs": 1 }),
        )
        .expect(201);
    client.wait_status("latest", "completed");
    // What is no demo's is replayed; what never began is left out.
    client.run_to("quick", "completed");
    client.create(json!({ "name": "Never started" }));

    let scene = client.get("/demo/scene?name=again").expect(200).json();
    let demos: Vec<_> = scene["acts"]
        .as_array()
        .expect("acts")
        .iter()
        .map(|act| act["demo"].clone())
        .collect();
    assert_eq!(
        demos,
        [
            json!("workflow"),
            json!("batch"),
            json!("replay"),
            json!(null)
        ]
    );
    let other = server.session("second");
    other.post(SCENES, scene).expect(201);
    start(&other, "again");
    wait_until(|| !is_playing(&other, "again"));
    wait_until(|| other.get("/tasks/stats").json()["stats"]["completed"] == 3);
    let shown = |client: &Client| {
        let seen = tasks(client)
            .into_iter()
            .filter(|task| task["status"] == "completed");
        let seen = seen.map(|task| {
            let history = client.history(task["id"].as_str().expect("an id"));
            let entry = |entry: &Value| {
                (
                    entry["event"].clone(),
                    entry["progress"].clone(),
                    entry["step"].clone(),
                )
            };
            (
                task["name"].clone(),
                task["description"].clone(),
                history.iter().map(entry).collect::<Vec<_>>(),
            )
        });
        seen.collect::<Vec<_>>()
    };
    assert_eq!(shown(&client), shown(&other));
}

#[test]
fn the_scenes_of_the_server_are_for_all_and_can_be_told_apart() {
    let dir = TempDir::new();
    std::fs::create_dir(dir.file("scenes")).expect("a folder");
    let act = json!({ "demo": "sample", "body": quick(json!({ "description": "ours" })) });
    let write = |name: &str, scene: Value| {
        std::fs::write(dir.file("scenes").join(name), scene.to_string()).expect("a file");
    };
    // One of the program's is replaced.
    write("1.json", json!({ "name": "tour", "acts": [act] }));
    write("2.json", json!({ "name": "order", "acts": [act] }));
    write("notes.txt", json!("not a scene"));
    let process = Process::start(&dir, &[FREE_PORT, ("SCENES", "scenes")]);
    let client = process.client.session("visitor");
    let scenes = client.get(SCENES).expect(200).json();
    let names: Vec<_> = scenes["scenes"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|scene| {
            (
                scene["name"].as_str().expect("a name").to_owned(),
                scene["source"].clone(),
                scene["acts"].clone(),
            )
        })
        .collect();
    let server = |name: &str, acts: usize| (name.to_owned(), json!("server"), json!(acts));
    assert_eq!(
        names,
        [
            server("import", 4),
            server("onboarding", 3),
            server("order", 1),
            server("tour", 1)
        ]
    );
    start(&client, "tour");
    wait_until(|| client.total() == 1);
    let refused = client
        .call("DELETE", &format!("{SCENES}/tour"))
        .send()
        .expect(409)
        .json();
    assert_eq!(refused["code"], "scene_of_server");
    // A session's own scene stands before the server's.
    client
        .post(SCENES, json!({ "name": "tour", "acts": [act, act] }))
        .expect(201);
    assert_eq!(
        client.get(&format!("{SCENES}/tour")).json()["acts"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    client
        .call("DELETE", &format!("{SCENES}/tour"))
        .send()
        .expect(204);
    assert_eq!(
        client.get(&format!("{SCENES}/tour")).json()["acts"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
}

#[test]
fn a_mistake_in_a_file_stops_the_start_and_names_file_and_field() {
    let dir = TempDir::new();
    let file = |text: &str| std::fs::write(dir.file("wrong.json"), text).expect("a file");
    let folder = dir.path().to_str().expect("UTF-8").to_owned();
    for (text, told) in [
        (
            r#"{"name": "wrong", "acts": [{"demo": "smple"}]}"#,
            "wrong.json: acts[0].demo: demo must be one of sample,",
        ),
        (r#"{"acts": ["#, "wrong.json: EOF while parsing"),
    ] {
        file(text);
        for arguments in [&[][..], &["--check"]] {
            let output = run(&dir, arguments, &[FREE_PORT, ("SCENES", &folder)]);
            assert!(!output.status.success());
            assert!(stderr(&output).contains(told), "{}", stderr(&output));
        }
    }
    let missing = Path::new(&folder).join("none");
    let missing = missing.to_str().expect("UTF-8");
    let output = run(&dir, &["--check"], &[FREE_PORT, ("SCENES", missing)]);
    assert!(
        stderr(&output).contains("none cannot be read: "),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_shipped_scenes_play_to_their_end() {
    let server = TestServer::start(&[]);
    for (name, tasks_of) in [("order", 3), ("import", 3), ("onboarding", 3)] {
        let client = server.session(name);
        let mut scene = client.get(&format!("{SCENES}/{name}")).expect(200).json();
        scene["speed"] = json!(40);
        client.post(SCENES, scene).expect(201);
        start(&client, name);
        if name == "onboarding" {
            wait_until(|| tasks(&client).iter().any(|task| task["waiting"] == true));
            let first = tasks(&client)[0]["id"].as_str().expect("an id").to_owned();
            client.act(&format!("/tasks/{first}/advance")).expect(200);
        }
        wait_until(|| client.get("/tasks/stats").json()["stats"]["completed"] == tasks_of);
        wait_until(|| !is_playing(&client, name));
        let attempts: u64 = tasks(&client)
            .iter()
            .filter_map(|task| task["attempt"].as_u64())
            .sum();
        assert_eq!(attempts, if name == "import" { 4 } else { 3 }, "{name}");
    }
}

#[test]
fn the_document_of_scenes_and_recordings_does_what_it_says() {
    const DOCUMENT: &str = include_str!("../../docs/demo.md");
    if !has("jq") || !has("curl") {
        return;
    }
    let (server, dir) = (TestServer::start(&[]), TempDir::new());
    let folder = format!("cd '{}'\n", dir.path().display());
    let blocks = tour::blocks(DOCUMENT, "sh");
    let mut scripts = vec![&*folder];
    scripts.extend(blocks.iter().map(|(_, block)| *block));
    let printed = tour::run(&server.addr().to_string(), &scripts, 0);
    assert!(DOCUMENT.contains(printed[2].trim()), "{}", printed[2]);
    for (block, told) in [
        (1, "\"waiting\":true"),
        (3, "\"name\":\"fair\""),
        (4, "\"name\":\"again\""),
        (5, "\"type\":\"replay\""),
    ] {
        assert!(printed[block].contains(told), "{}", printed[block]);
    }
    let cast = std::fs::read_to_string(dir.file("task.cast")).expect("a file");
    assert!(cast.starts_with("{\"height\":12,"), "{cast}");
}
