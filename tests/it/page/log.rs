use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use async_task_system::{LogStream, Outcome, TaskContext, TaskError, TaskInput};
use serde_json::{Value, json};

use super::scene::{HOSTILE, Scene, button, is, on, row};
use crate::browser::Tab;
use crate::support::{Gate, TestServer};

/// What `says` does: it logs `line 1`, `line 2` and so on up to a number, and ends when the gate opens: badly the first
/// time.
#[derive(Clone, Default)]
struct Says {
    lines: Arc<AtomicUsize>,
    end: Gate,
}

impl Says {
    fn up_to(&self, lines: usize) {
        self.lines.store(lines, SeqCst);
    }

    fn server(&self) -> TestServer {
        let says = self.clone();
        TestServer::start_with(&[], move |registry| {
            registry.register("says", move |_: &TaskInput| {
                let (says, mut n) = (says.clone(), 0);
                Ok(move |ctx: &mut TaskContext<'_>| {
                    while n < says.lines.load(SeqCst) {
                        n += 1;
                        let stream = [LogStream::Out, LogStream::Err][usize::from(n % 10 == 0)];
                        ctx.log_from(stream, &format!("line {n}"))?;
                    }
                    match (says.end.is_open(), ctx.input().attempt) {
                        (false, _) => Ok(Outcome::Again(Duration::from_millis(5))),
                        (true, 1) => Err(TaskError::new("as asked")),
                        (true, _) => Ok(Outcome::Done(None)),
                    }
                })
            });
        })
    }
}

const PANE: &str = "document.querySelector('#log-lines')";
const IS_AT_END: &str = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 8)(document.querySelector('#log-lines'))";

fn wait_for_lines(tab: &Tab, count: usize) {
    tab.wait_for(&format!("{PANE}.childElementCount === {count}"));
}

/// Opens the drawer of the task of that name, wherever its row is by now.
fn open_drawer(tab: &Tab, name: &str) {
    tab.eval(&format!(
        "({}).querySelector('.name').click(); 0",
        row(name)
    ));
}

fn wait_for_text(tab: &Tab, selector: &str, text: &str) {
    let (element, text) = (on(selector), json!(text));
    tab.wait_for(&format!("{element}.textContent === {text}"));
}

#[test]
fn the_log_follows_pauses_searches_wraps_and_copies() {
    let says = Says::default();
    let Some(scene) = Scene::with(says.server()) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let id = mine.run("says");
    tab.wait_for(&is("says", "running"));
    open_drawer(tab, "says");
    tab.wait_for("document.querySelector('#trail li')");
    assert_eq!(tab.eval("document.querySelector('#log').hidden"), true);
    says.up_to(100);
    wait_for_lines(tab, 100);
    tab.wait_for(IS_AT_END);
    wait_for_text(tab, "#log-count", "100 lines");
    assert_eq!(
        tab.eval(&format!("{PANE}.querySelectorAll('.err').length")),
        10
    );

    // Whoever reads above is not disturbed.
    tab.eval(&format!("{PANE}.scrollTop = 30; 0"));
    tab.wait_for("document.querySelector('#log-follow').ariaPressed === 'false'");
    says.up_to(130);
    wait_for_text(tab, "#log-follow", "30 new");
    assert_eq!(
        tab.eval(&format!("[{PANE}.scrollTop, {PANE}.childElementCount]")),
        json!([30, 100])
    );
    tab.click(&on("#log-follow"));
    wait_for_lines(tab, 130);
    tab.wait_for(IS_AT_END);
    wait_for_text(tab, "#log-follow", "Follow");
    // To scroll back to the end is to follow again.
    tab.eval(&format!("{PANE}.scrollTop = 0; 0"));
    tab.wait_for("document.querySelector('#log-follow').ariaPressed === 'false'");
    tab.eval(&format!("{PANE}.scrollTop = {PANE}.scrollHeight; 0"));
    tab.wait_for("document.querySelector('#log-follow').ariaPressed === 'true'");

    tab.fill(&on("#log-search"), "LINE 12");
    wait_for_lines(tab, 11);
    wait_for_text(tab, "#log-count", "11 found");
    says.up_to(1_201);
    wait_for_lines(tab, 13);
    tab.eval("Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.copied = text; } } }); 0");
    tab.click(&on("#log-copy"));
    tab.wait_for("window.copied");
    let copied = tab.text("copied");
    assert!(
        copied.starts_with("line 12\nline 120\n") && copied.ends_with("line 1201\n"),
        "{copied}"
    );
    tab.fill(&on("#log-search"), "");
    wait_for_lines(tab, 1_201);

    let wraps = format!(
        "getComputedStyle({PANE}.firstElementChild).whiteSpaceCollapse + getComputedStyle({PANE}.firstElementChild).textWrapMode"
    );
    assert_eq!(tab.text(&wraps), "preservewrap");
    tab.click(&on("#log-wrap"));
    assert_eq!(tab.text(&wraps), "preservenowrap");
    assert_eq!(tab.eval("localStorage.logWrap"), "no");

    // The next attempt goes on below.
    says.up_to(3);
    says.end.open();
    tab.wait_for(&is("says", "failed"));
    tab.click(&button(&on("#drawer"), "Retry"));
    tab.wait_for(&is("says", "completed"));
    wait_for_lines(tab, 1_201 + 1 + 3);
    let end = format!("[...{PANE}.children].slice(-4).map((line) => line.textContent)");
    assert_eq!(
        tab.eval(&end),
        json!(["Attempt 2", "line 1", "line 2", "line 3"])
    );
    let lines = mine.get(&format!("/tasks/{id}/log")).expect(200).text();
    assert_eq!(lines.lines().count(), 1_204);
    tab.expect_no_complaint();
}

#[test]
fn a_log_is_shown_as_text_also_by_a_link_that_shows_it() {
    let server = TestServer::start_with(&[], |registry| {
        registry.register("hostile", |_: &TaskInput| {
            Ok(|ctx: &mut TaskContext<'_>| {
                ctx.log(HOSTILE)?;
                Ok(Outcome::Done(None))
            })
        });
    });
    let Some(scene) = Scene::with(server) else {
        return;
    };
    let (tab, mine) = (&scene.tab, &scene.mine);
    let id = mine.run_to("hostile", "completed");
    tab.wait_for(&is("hostile", "completed"));
    open_drawer(tab, "hostile");
    tab.wait_for(&format!("{PANE}.textContent.includes('<img src=x')"));
    tab.eval("Object.defineProperty(navigator, 'clipboard', { value: undefined }); 0");
    tab.click(&on("#log-share"));
    let link = "document.querySelector('#toast:popover-open code').textContent";
    tab.wait_for(link);
    let shared = scene.browser.open(&tab.text(link));
    shared.wait_for("document.querySelector('#log').textContent.includes('<img src=x')");
    let url = mine.act(&format!("/tasks/{id}/share")).expect(201).json();
    let url = url["url"].as_str().expect("a link");
    let without = scene
        .browser
        .open(&format!("http://{}{url}", scene.server.addr()));
    without.wait_for("document.body.innerText.includes('It is done.')");
    assert_eq!(without.eval("document.querySelector('#log').hidden"), true);
    for tab in [tab, &shared, &without] {
        assert_eq!(tab.eval("window.hit ?? null"), Value::Null);
        assert_eq!(tab.eval("document.querySelectorAll('img').length"), 0);
        tab.expect_no_complaint();
    }
}

#[test]
fn a_large_log_that_grows_fast_is_only_added_to() {
    const BEFORE: usize = 4_500;
    const AFTER: usize = 600;
    let says = Says::default();
    let Some(scene) = Scene::with(says.server()) else {
        return;
    };
    let tab = &scene.tab;
    says.up_to(BEFORE);
    scene.mine.run("says");
    tab.wait_for(&is("says", "running"));
    open_drawer(tab, "says");
    let last = |n: usize| format!("{PANE}.lastElementChild?.textContent === 'line {n}'");
    tab.wait_for(&last(BEFORE));
    wait_for_lines(tab, 2_000);
    tab.eval(
        "window.added = 0; window.gaps = [];
         new MutationObserver((changes) => { for (const { addedNodes } of changes) added += addedNodes.length; })
             .observe(document.querySelector('#log-lines'), { childList: true });
         let before = performance.now();
         requestAnimationFrame(function look(now) { gaps.push(now - before); before = now; requestAnimationFrame(look); }); 0",
    );
    for n in 1..=AFTER {
        says.up_to(BEFORE + n);
        std::thread::sleep(Duration::from_millis(5));
    }
    tab.wait_for(&last(BEFORE + AFTER));
    tab.wait_for(IS_AT_END);
    assert_eq!(tab.eval("added"), AFTER);
    assert_eq!(tab.eval(&format!("{PANE}.childElementCount")), 2_000);
    let frames = tab.eval(
        "[gaps.length, gaps.filter((gap) => gap > 50).length, Math.round(Math.max(...gaps))]",
    );
    eprintln!("frames, frames over 50 ms, the longest in ms: {frames}");
    tab.expect_no_complaint();
}

#[test]
fn the_log_fits_on_a_phone() {
    let says = Says::default();
    let Some(scene) = Scene::with(says.server()) else {
        return;
    };
    let tab = &scene.tab;
    tab.resize(360, 780);
    says.up_to(200);
    scene.mine.run("says");
    tab.wait_for(&is("says", "running"));
    open_drawer(tab, "says");
    wait_for_lines(tab, 200);
    for element in [
        "document.documentElement",
        "document.querySelector('#drawer')",
    ] {
        assert_eq!(
            tab.eval(&format!("{element}.scrollWidth <= innerWidth")),
            true,
            "{element}"
        );
    }
    let is_inside = "[...document.querySelectorAll('#log button, #log input, #log-lines')]
        .every((element) => { const { left, right } = element.getBoundingClientRect(); return left >= 0 && right <= innerWidth; })";
    assert_eq!(tab.eval(is_inside), true);
    // The keyboard reaches the lines.
    tab.eval(&format!("{PANE}.focus(); 0"));
    tab.press("Home", 36, "");
    tab.wait_for("document.querySelector('#log-follow').ariaPressed === 'false'");
    tab.expect_no_complaint();
}
