use async_task_system::{LogStream, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use super::scene::{HOSTILE, SAMPLE, Scene, button, is, on, row};
use crate::browser::Tab;
use crate::support::{Dial, TestServer, wait_until};

#[test]
fn what_clients_store_is_shown_as_text() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("hostile", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                ctx.progress(50, HOSTILE, HOSTILE)?;
                Ok(Outcome::done(json!({ "made": HOSTILE })))
            })
        });
        registry.register("hostile-failure", |_: &TaskInput| {
            Ok(|_: &mut TaskContext<'_>| Err::<Outcome, _>(TaskError::new(HOSTILE)))
        });
    });
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let steps = json!([{ "name": HOSTILE, "description": HOSTILE, "durationMs": 1 }]);
    let body = json!({ "name": "steps", "description": HOSTILE, "steps": steps });
    mine.post("/demo/tasks/workflow", body).expect(201);
    let metadata = json!({ "type": HOSTILE, HOSTILE: HOSTILE });
    mine.create(json!({ "name": "type", "metadata": metadata }));
    mine.create(json!({ "name": "error", "type": "hostile-failure", "start": true }));
    let id = mine.create(json!({ "name": HOSTILE, "type": "hostile", "start": true }));
    let rows = [
        ("steps", "completed"),
        ("type", "pending"),
        ("error", "failed"),
        (HOSTILE, "completed"),
    ];
    // Nothing moves any more where a click is to land.
    for (name, status) in rows {
        tab.wait_for(&is(name, status));
    }
    for (name, _) in rows {
        tab.click(&format!("({}).querySelector('.name')", row(name)));
        tab.wait_for("document.querySelector('#drawer').open");
        tab.wait_for("document.querySelector('#trail li')");
        tab.wait_for("document.querySelector('#drawer').innerText.includes('<img src=x')");
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('#drawer').open");
    }
    let url = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let url = url["url"].as_str().expect("a link");
    let shared = scene
        .browser
        .open(&format!("http://{}{url}", scene.server.addr()));
    shared.wait_for("document.body.innerText.includes('<img src=x')");
    for tab in [tab, &shared] {
        assert_eq!(tab.eval("window.hit ?? null"), Value::Null);
        assert_eq!(tab.eval("document.querySelectorAll('img').length"), 0);
        assert_eq!(
            tab.eval("document.querySelectorAll('script:not([src])').length"),
            0
        );
        tab.expect_no_complaint();
    }
}

#[test]
fn the_drawer_tells_the_whole_story() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let body = json!({
        "name": "Tale", "description": "of two attempts", "metadata": { "customer": "Ada" },
        "type": "fails", "start": true,
    });
    let id = mine.create(body);
    mine.wait_status(&id, "failed");
    tab.wait_for(&is("Tale", "failed"));
    let name = format!("({}).querySelector('.name')", row("Tale"));
    tab.click(&name);
    tab.wait_for("document.querySelector('#drawer').open");
    let told = |count: usize| {
        format!("document.querySelectorAll('#trail > li:not([hidden])').length === {count}")
    };
    tab.wait_for(&told(mine.history(&id).len()));
    // What is told is drawn in a later frame.
    for text in [
        "Tale",
        "of two attempts",
        "Ada",
        "the disk is full",
        "Trying",
    ] {
        tab.wait_for(&format!(
            "document.querySelector('#drawer').innerText.includes({})",
            json!(text)
        ));
    }
    // It goes on while it is open.
    let before = mine.history(&id).len();
    tab.click(&button(&on("#drawer"), "Retry"));
    wait_until(|| mine.history(&id).len() >= 2 * before);
    mine.wait_status(&id, "failed");
    tab.wait_for(&told(mine.history(&id).len()));
    tab.press("Escape", 27, "");
    tab.wait_for("!document.querySelector('#drawer').open");
    tab.wait_for(&format!("document.activeElement === {name}"));

    let id = mine.run_to("quick", "completed");
    tab.wait_for(&is("quick", "completed"));
    tab.click(&format!("({}).querySelector('.name')", row("quick")));
    tab.wait_for(&told(mine.history(&id).len()));
    tab.wait_for("document.querySelector('#drawer').innerText.includes('\"ok\": true')");
    tab.expect_no_complaint();
}

#[test]
fn a_bystander_sees_the_bar_and_nothing_to_press() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    dial.turn_to(25);
    mine.create(json!({ "name": "Shown", "type": "driven", "start": true }));
    tab.wait_for(&is("Shown", "running"));
    tab.click(&format!("({}).querySelector('.name')", row("Shown")));
    tab.click(&on("#share"));
    let code = "document.querySelector('#toast:popover-open code').textContent";
    tab.wait_for(&format!("{code}.includes('/s/')"));
    let link = tab.text(code);

    let shared = scene.browser.open(&link);
    let at = |percent: u32| {
        format!(
            "document.querySelector('[role=progressbar]').ariaValueNow === '{percent}'
             && document.body.innerText.includes('{percent} %')"
        )
    };
    for percent in [25, 60, 80] {
        dial.turn_to(percent as usize);
        shared.wait_for(&at(percent));
        let shown = shared.text("document.body.innerText");
        assert!(
            shown.contains("Shown") && shown.contains("Running"),
            "{shown}"
        );
    }
    dial.turn_to(100);
    shared.wait_for("document.body.innerText.includes('Completed')");
    let html = shared.text("document.documentElement.outerHTML");
    assert!(!html.contains("mine"), "{html}");
    let controls = "document.querySelectorAll('button, input, form, a, [tabindex]').length";
    assert_eq!(shared.eval(controls), 0);
    shared.expect_no_complaint();
    tab.expect_no_complaint();

    let link = format!("http://{}/s/{}", scene.server.addr(), "0".repeat(32));
    shared.go(&link);
    shared.wait_for("document.body.innerText.includes('This link has ended')");
}

#[test]
fn all_of_it_works_without_a_mouse() {
    let Some(scene) = Scene::open() else { return };
    let tab = &scene.tab;
    let tab_to = |condition: &str| {
        for _ in 0..60 {
            if tab.eval(&format!("Boolean({condition})")) == true {
                return;
            }
            tab.press("Tab", 9, "");
        }
        panic!("Tab never reaches {condition}");
    };
    let enter = || tab.press("Enter", 13, "\r");
    tab.fill(&on("#delayMs"), "0.2");
    tab.eval("document.activeElement.blur()");
    tab_to("document.activeElement.id === 'demo-sample'");
    enter();
    tab.wait_for(&is(SAMPLE, "completed"));
    tab_to("document.activeElement.classList.contains('name')");
    enter();
    tab.wait_for("document.querySelector('#drawer').open");
    // The focus stays within, however often Tab is pressed.
    for _ in 0..12 {
        tab.press("Tab", 9, "");
        tab.wait_for(
            "document.activeElement === document.body || document.activeElement.closest('#drawer')",
        );
    }
    tab.press("Escape", 27, "");
    tab.wait_for("!document.querySelector('#drawer').open");
    tab.wait_for("document.activeElement.classList.contains('name')");
    // A button that has done its work hands the focus to the next one of its row.
    let mine = &scene.mine;
    mine.create(json!({ "name": "By hand", "type": "held" }));
    tab.wait_for(&is("By hand", "pending"));
    tab.eval(&format!("({}).focus()", button(&row("By hand"), "Start")));
    for status in ["running", "cancelled"] {
        enter();
        tab.wait_for(&is("By hand", status));
        tab.wait_for(&format!(
            "document.activeElement === ({}).querySelector('.acts button') && !document.activeElement.ariaDisabled",
            row("By hand")
        ));
    }
    // Where the focus is can be seen.
    assert_ne!(
        tab.eval("getComputedStyle(document.activeElement).outlineStyle"),
        "none"
    );
    tab.expect_no_complaint();
}

#[test]
fn filters_narrow_the_list() {
    let Some(scene) = Scene::open() else { return };
    let (tab, mine) = (&scene.tab, &scene.mine);
    mine.create(json!({ "name": "Apple" }));
    mine.create(json!({ "name": "Pear" }));
    mine.run("held");
    tab.wait_for(&is("held", "running"));
    let shown = |names: &[&str]| {
        format!(
            "JSON.stringify([...document.querySelectorAll('#list > li:not([hidden]) .name')].map((name) => name.textContent)) === {}",
            json!(json!(names).to_string())
        )
    };
    tab.wait_for(&shown(&["held", "Pear", "Apple"]));
    tab.click(&on("#tiles [data-status=pending]"));
    tab.wait_for(&shown(&["Pear", "Apple"]));
    tab.fill(&on("#search"), "APP");
    tab.wait_for(&shown(&["Apple"]));
    tab.fill(&on("#search"), "");
    tab.click(&on("#tiles [data-status=running]"));
    tab.wait_for(&shown(&["held"]));
    // Whoever leaves the filter's status leaves the list.
    scene.server.gate.open();
    tab.wait_for(&shown(&[]));
    tab.wait_for("document.querySelector('#empty').innerText.includes('No task matches')");
    tab.expect_no_complaint();
}

#[test]
fn a_change_of_one_task_redraws_one_row_of_those_that_are_shown() {
    let dial = Dial::default();
    let server = TestServer::start_with(&[], |registry| dial.register(registry));
    let mine = server.session("mine");
    for i in 0..999 {
        mine.create(json!({ "name": format!("Task {i}") }));
    }
    mine.create(json!({ "name": "Driven", "type": "driven", "start": true }));
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let tab = &scene.tab;
    tab.wait_for("document.querySelectorAll('#list > li').length === 100");
    tab.wait_for(&is("Driven", "running"));
    tab.eval(
        "window.touched = new Set();
         new MutationObserver((changes) => {
             for (const { target } of changes) {
                 const element = target.nodeType === 1 ? target : target.parentElement;
                 touched.add(element?.closest('#list > li')?.querySelector('.name').textContent ?? 'the list');
             }
         }).observe(document.querySelector('#list'), { subtree: true, attributes: true, childList: true, characterData: true }); 0",
    );
    for percent in [10, 50, 90, 100] {
        dial.turn_to(percent);
        tab.wait_for(&format!(
            "({}).querySelector('[role=progressbar]').ariaValueNow === '{percent}'",
            row("Driven")
        ));
    }
    tab.wait_for(&is("Driven", "completed"));
    assert_eq!(tab.eval("[...touched]"), json!(["Driven"]));
    let newest_first = "[...document.querySelectorAll('#list > li')]
        .every((row, i, rows) => !i || row.dataset.id < rows[i - 1].dataset.id)";
    assert_eq!(tab.eval(newest_first), true);
    tab.fill(&on("#search"), "task 99");
    tab.wait_for("document.querySelectorAll('#list > li:not([hidden])').length === 10");
    tab.expect_no_complaint();
}

#[test]
fn everyone_can_use_it() {
    let Ok(path) = std::env::var("AXE_JS") else {
        return eprintln!("skipped: AXE_JS names no axe.min.js");
    };
    let axe = std::fs::read_to_string(&path).expect("AXE_JS can be read");
    let server = TestServer::start_with(&[], |registry| {
        registry
            .register("rich", |_| {
                Ok(|_: &mut TaskContext<'_>| Ok(Outcome::Done(None)))
            })
            .description("Has a field of every kind")
            .example(
                json!({ "flag": true, "list": [1], "number": 1, "text": "a", "texts": "a\nb" }),
            );
        registry.register("talks", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                ctx.log_from(LogStream::Err, &"a line\n".repeat(50))?;
                Ok(Outcome::Done(None))
            })
        });
    });
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let check = |tab: &Tab, what: &str| {
        tab.eval(&format!("{axe}\n;0"));
        for theme in ["light", "dark"] {
            tab.theme(theme);
            let found = tab.eval(
                "Promise.all(document.getAnimations().filter((a) => a.effect.getTiming().iterations !== Infinity).map((a) => a.finished.catch(() => 0)))
                    .then(() => axe.run(document, { resultTypes: ['violations'] }))
                    .then(({ violations }) => violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
                        .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]))",
            );
            assert_eq!(found, json!([]), "{what}, {theme}");
        }
    };
    check(tab, "nothing there");
    mine.run_to("fails", "failed");
    mine.run_to("quick", "completed");
    mine.run_to("talks", "completed");
    mine.create(json!({ "name": "waits" }));
    let id = mine.run("held");
    let cancelled = mine.create(json!({ "name": "cancelled" }));
    mine.act(&format!("/tasks/{cancelled}/cancel")).expect(200);
    tab.wait_for(&is("cancelled", "cancelled"));
    tab.wait_for(&is("held", "running"));
    check(tab, "a list");
    for dialog in ["workflow", "create", "switch", "run"] {
        let opener = match dialog {
            "switch" => on("#session"),
            "run" => on("#own-rich"),
            _ => on(&format!("#open-{dialog}")),
        };
        tab.click(&opener);
        tab.wait_for(&format!("document.querySelector('#{dialog}').open"));
        check(tab, dialog);
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('dialog[open]')");
    }
    for name in ["held", "fails", "talks"] {
        tab.click(&format!("({}).querySelector('.name')", row(name)));
        tab.wait_for("document.querySelector('#trail li')");
        check(tab, "the drawer");
        tab.click(&on("#share"));
        tab.wait_for("document.querySelector('#toast:popover-open code')");
        check(tab, "the toast");
        tab.press("Escape", 27, "");
        tab.wait_for("!document.querySelector('dialog[open]')");
    }
    tab.resize(360, 780);
    check(tab, "a phone");
    // Nothing is wider than the smallest phone.
    let fits = "document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(tab.eval(fits), true);

    let url = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let url = url["url"].as_str().expect("a link");
    let shared = scene
        .browser
        .open(&format!("http://{}{url}", scene.server.addr()));
    shared.wait_for("document.body.innerText.includes('40 %')");
    check(&shared, "the shared page");
}
