//! An action is done once, however often its button is pressed.

use std::time::Duration;

use serde_json::json;

use super::scene::{Scene, button, is, on, row};
use crate::browser::Tab;
use crate::support::{FREE_PORT, Process, TempDir};

/// Presses and lets go twice, as fast as a hand does it, at the middle of an element.
fn double_click(tab: &Tab, element: &str) {
    tab.wait_for(&format!("(({element}) && !({element}).ariaDisabled)"));
    let at = tab.eval(&format!(
        "(() => {{ const box = ({element}).getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
    ));
    for count in [1, 2] {
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({
                "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": count,
            });
            tab.command("Input.dispatchMouseEvent", params);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_double_click_on_cancel_does_not_retry() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let id = mine.run("held");
    tab.wait_for(&is("held", "running"));
    double_click(tab, &button(&row("held"), "Cancel"));
    // The next button is there, and dead for a moment; then it is as good as any.
    tab.wait_for(&button(&row("held"), "Retry"));
    tab.wait_for(&format!(
        "!({}).ariaDisabled",
        button(&row("held"), "Retry")
    ));
    let task = mine.task(&id);
    assert_eq!(
        (&task["status"], &task["attempt"]),
        (&json!("cancelled"), &json!(1))
    );
    tab.click(&button(&row("held"), "Retry"));
    tab.wait_for(&is("held", "running"));
    tab.expect_no_complaint();
}

#[test]
fn a_key_that_is_held_down_presses_once() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let id = mine.run("held");
    tab.wait_for(&is("held", "running"));
    tab.eval(&format!("({}).focus(); 0", button(&row("held"), "Cancel")));
    let press = |kind: &str, repeats: bool| {
        let params = json!({
            "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13,
            "text": "\r", "autoRepeat": repeats,
        });
        tab.command("Input.dispatchKeyEvent", params);
    };
    press("keyDown", false);
    // For longer than a button that has changed its meaning is dead.
    for _ in 0..40 {
        press("keyDown", true);
        std::thread::sleep(Duration::from_millis(30));
    }
    press("keyUp", false);
    tab.wait_for(&is("held", "cancelled"));
    let task = mine.task(&id);
    assert_eq!(
        (&task["status"], &task["attempt"]),
        (&json!("cancelled"), &json!(1))
    );
    tab.expect_no_complaint();
}

#[test]
fn a_double_click_makes_one_task_and_so_does_a_form_on_a_slow_line() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    double_click(tab, &on("#demo-sample"));
    tab.wait_for("!document.querySelector('#demo-sample').ariaDisabled");
    assert_eq!(mine.total(), 1);

    tab.click(&on("#open-create"));
    tab.fill(&on("#create [name=name]"), "Slow");
    tab.eval(
        "window.realFetch = fetch; window.sent = [];
         window.fetch = async (url, options, ...rest) => {
             if (options?.method !== 'POST') return realFetch(url, options, ...rest);
             sent.push(options.headers['Idempotency-Key']);
             await new Promise((go) => window.go = go);
             const answer = await realFetch(url, options, ...rest);
             if (sent.length > 1) return answer;
             throw new TypeError('the answer is lost on its way');
         }; 0",
    );
    for _ in 0..3 {
        tab.eval("document.querySelector('#create form').requestSubmit(); 0");
    }
    tab.wait_for("window.go");
    assert_eq!(tab.eval("sent.length"), 1);
    tab.eval("window.go(); 0");
    tab.wait_for("document.querySelector('#create .error').textContent.includes('try again')");
    // It was done, only its answer was lost: the same once more has the same key, and makes no second one.
    tab.click(&button(&on("#create"), "Create"));
    tab.wait_for("sent.length === 2");
    tab.eval("window.go(); 0");
    tab.wait_for("!document.querySelector('#create').open");
    assert_eq!(tab.eval("sent[0] === sent[1] && sent[0].length > 20"), true);
    assert_eq!(mine.total(), 2);
}

#[test]
fn a_type_that_needs_the_operators_token_asks_for_it_and_goes_on() {
    let dir = TempDir::new();
    let file = dir.path().join("executors.json");
    std::fs::write(&file, r#"{"greet": {"command": ["echo", "hello"]}}"#).expect("written");
    let file = file.display().to_string();
    let token = "a token of operators";
    let server = Process::start(
        &dir,
        &[FREE_PORT, ("EXECUTORS", &file), ("EXECUTORS_TOKEN", token)],
    );
    let Some(browser) = crate::browser::Browser::get() else {
        return;
    };
    let tab = browser.open(&format!("http://{}/?session=mine", server.client.addr()));
    tab.click("document.getElementById('own-greet')");
    tab.click(&button(&on("#run"), "Start it"));
    tab.wait_for("document.querySelector('#token').open");
    tab.fill(&on("#token input"), "not this one");
    tab.click(&button(&on("#token"), "Go on"));
    tab.wait_for("document.querySelector('#token .error').textContent.includes('does not accept')");
    tab.fill(&on("#token input"), token);
    tab.wait_for("document.querySelector('#token').open");
    tab.click(&button(&on("#token"), "Go on"));
    tab.wait_for(&is("greet", "completed"));
    assert_eq!(tab.text("sessionStorage.executorsToken"), token);
    assert!(
        !tab.text("location.href + JSON.stringify(localStorage)")
            .contains(token)
    );
    assert_eq!(server.client.session("mine").total(), 1);
    // What is kept is not asked for again, nor shown in a command.
    tab.wait_for("!document.querySelector('#run').open");
    tab.click("document.getElementById('own-greet')");
    tab.click(&on("#run [data-curl]"));
    let code = "document.querySelector('#toast:popover-open code').textContent";
    tab.wait_for(&format!("{code}.includes('$EXECUTORS_TOKEN')"));
    tab.click(&button(&on("#run"), "Start it"));
    tab.wait_for("!document.querySelector('#run').open && !document.querySelector('#token').open");
    assert_eq!(server.client.session("mine").total(), 2);
}
