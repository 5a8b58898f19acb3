//! Chromium without a window, driven over a pipe by the few commands of its DevTools protocol
//! that the tests need.

mod pipe;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::pipe::{Pipe, lock};
use crate::support::TempDir;

/// How long a condition or an answer may take, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What keeps Chromium to itself: no update, no sync, no other door than the pipe.
const FLAGS: [&str; 16] = [
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--no-first-run",
    "--no-proxy-server",
    "--window-size=1280,900",
    "about:blank",
];

/// A running Chromium, shared by the tests that run at the same time; ends with the last of them.
pub(crate) struct Browser {
    child: Child,
    pipe: Arc<Pipe>,
    reader: Option<JoinHandle<()>>,
    profile: TempDir,
}

impl Browser {
    /// A browser; `None`, with a word why, where this machine has none and is not the CI.
    pub(crate) fn get() -> Option<Arc<Browser>> {
        static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());
        let mut shared = lock(&SHARED);
        if let Some(browser) = shared.upgrade() {
            return Some(browser);
        }
        let Some(program) = find() else {
            skip("no chromium, chromium-browser or google-chrome in PATH");
            return None;
        };
        let browser = Arc::new(Browser::start(&program));
        *shared = Arc::downgrade(&browser);
        Some(browser)
    }

    fn start(program: &PathBuf) -> Browser {
        use std::os::unix::process::CommandExt;
        let profile = TempDir::new();
        // Chromium reads its pipe from descriptor 3, and writes to 4.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#)
            .arg(program)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(FLAGS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("a shell starts");
        let input = child.stdin.take().expect("its input");
        let output = child.stdout.take().expect("its output");
        let pipe = Arc::new(Pipe::new(input));
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || pipe.read(output))
        };
        Browser {
            child,
            pipe,
            reader: Some(reader),
            profile,
        }
    }

    /// A tab of its own profile, at that address, in a light theme.
    #[track_caller]
    pub(crate) fn open(self: &Arc<Browser>, url: &str) -> Tab {
        let context = self.call(None, "Target.createBrowserContext", json!({}));
        let mut tab = self.open_in(&text(&context, "browserContextId"), url);
        tab.is_first = true;
        tab
    }

    /// A further tab of the same profile, which does not outlive it.
    #[track_caller]
    pub(crate) fn open_beside(self: &Arc<Browser>, tab: &Tab, url: &str) -> Tab {
        self.open_in(&tab.context, url)
    }

    #[track_caller]
    fn open_in(self: &Arc<Browser>, context: &str, url: &str) -> Tab {
        let target = json!({ "url": "about:blank", "browserContextId": context });
        let target = text(&self.call(None, "Target.createTarget", target), "targetId");
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attach);
        let tab = Tab {
            browser: self.clone(),
            context: context.to_owned(),
            is_first: false,
            session: text(&attached, "sessionId"),
        };
        for domain in ["Page", "Runtime", "Log"] {
            tab.command(&format!("{domain}.enable"), json!({}));
        }
        // As if it were the tab that its user looks at.
        tab.command(
            "Emulation.setFocusEmulationEnabled",
            json!({ "enabled": true }),
        );
        tab.go(url);
        tab
    }

    #[track_caller]
    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.try_call(session, method, params)
            .unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Sends a command and waits for its answer, or for the browser's refusal.
    #[track_caller]
    fn try_call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Value> {
        let answer = self.pipe.send(session, method, params);
        let mut answer = answer
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("{method}: {error}"));
        match answer["error"].take() {
            Value::Null => Ok(answer["result"].take()),
            error => Err(error),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its whole group, so that no process of it is left.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        // The last of the group may still write for a moment.
        let start = Instant::now();
        while std::fs::remove_dir_all(self.profile.path()).is_err()
            && self.profile.path().exists()
            && start.elapsed() < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A tab; its profile is closed when the first one is dropped.
pub(crate) struct Tab {
    browser: Arc<Browser>,
    context: String,
    is_first: bool,
    session: String,
}

impl Tab {
    #[track_caller]
    pub(crate) fn command(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    /// Goes to an address, and waits until its document is there.
    #[track_caller]
    pub(crate) fn go(&self, url: &str) {
        let went = self.command("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {}", went["errorText"]);
        self.wait_for("document.readyState === 'complete'");
    }

    /// What an expression gives, awaited where it is a promise.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        self.try_eval(expression)
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    #[track_caller]
    fn try_eval(&self, expression: &str) -> Result<Value, Value> {
        let params = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
            "userGesture": true,
        });
        let mut answer = self
            .browser
            .try_call(Some(&self.session), "Runtime.evaluate", params)?;
        match &answer["exceptionDetails"] {
            Value::Null => Ok(answer["result"]["value"].take()),
            details => Err(details.clone()),
        }
    }

    #[track_caller]
    pub(crate) fn text(&self, expression: &str) -> String {
        let value = self.eval(expression);
        let text = value.as_str();
        text.unwrap_or_else(|| panic!("{expression} is {value}"))
            .to_owned()
    }

    /// Polls until the condition holds; one that throws does not hold yet.
    #[track_caller]
    pub(crate) fn wait_for(&self, condition: &str) {
        let start = Instant::now();
        let expression = format!("(async () => Boolean({condition}))()");
        let mut last = self.try_eval(&expression);
        while last != Ok(Value::Bool(true)) {
            if start.elapsed() > PATIENCE {
                let shown = self.eval("document.body.innerText");
                panic!("never {condition}: {last:?}\nit shows: {shown}");
            }
            std::thread::sleep(Duration::from_millis(10));
            last = self.try_eval(&expression);
        }
    }

    /// Clicks, with the mouse, in the middle of an element once it can be clicked there. A row that
    /// moves between the look and the click is clicked again, as a person would.
    #[track_caller]
    pub(crate) fn click(&self, element: &str) {
        let start = Instant::now();
        while !self.try_click(element) {
            assert!(start.elapsed() < PATIENCE, "never hit {element}");
        }
    }

    /// Whether the click hit the element, once that is shown, enabled, at rest and covered by nothing.
    #[track_caller]
    fn try_click(&self, element: &str) -> bool {
        self.wait_for(&format!(
            "await (async (element) => {{
                if (!element || element.disabled || element.ariaDisabled === 'true') return false;
                element.scrollIntoView({{ block: 'center', behavior: 'instant' }});
                const middle = () => {{
                    const box = element.getBoundingClientRect();
                    return [box.x + box.width / 2, box.y + box.height / 2];
                }};
                const before = middle();
                await new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
                if (String(middle()) !== String(before)) return false;
                if (!element.contains(document.elementFromPoint(...before))) return false;
                window.clickAt = before;
                window.hasMissed = false;
                const look = (event) => {{ window.hasMissed = !element.contains(event.target); }};
                window.addEventListener('click', look, {{ capture: true, once: true }});
                return true;
            }})({element})"
        ));
        let at = self.eval("window.clickAt");
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({
                "type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1,
            });
            self.command("Input.dispatchMouseEvent", params);
        }
        // A click that follows a link leaves a page that knows nothing of it, or that is on its way.
        self.try_eval("window.hasMissed") != Ok(Value::Bool(true))
    }

    /// Replaces what stands in a field, as typing would.
    #[track_caller]
    pub(crate) fn fill(&self, field: &str, text: &str) {
        self.wait_for(&format!(
            "((field) => {{ field.focus(); field.select(); return document.activeElement === field; }})({field})"
        ));
        match text {
            "" => self.press("Backspace", 8, ""),
            _ => drop(self.command("Input.insertText", json!({ "text": text }))),
        }
    }

    /// Presses a key and lets it go. `text` is what it types.
    #[track_caller]
    pub(crate) fn press(&self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut params = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code,
            });
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = json!(text);
            }
            self.command("Input.dispatchKeyEvent", params);
        }
    }

    #[track_caller]
    pub(crate) fn theme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    #[track_caller]
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let params = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false,
        });
        self.command("Emulation.setDeviceMetricsOverride", params);
    }

    /// All that the page has complained about so far, taken.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut state = lock(&self.browser.pipe.state);
        state.complaints.remove(&self.session).unwrap_or_default()
    }

    /// Fails where the page threw, wrote an error or broke its own policy.
    #[track_caller]
    pub(crate) fn expect_no_complaint(&self) {
        // Events that the page sent before this answer have arrived with it.
        self.eval("0");
        assert_eq!(self.complaints(), Vec::<String>::new());
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        // Not waited for: a failing test must not fail again here.
        if self.is_first && !lock(&self.browser.pipe.state).is_over {
            let params = json!({ "browserContextId": self.context });
            let pipe = &self.browser.pipe;
            drop(pipe.send(None, "Target.disposeBrowserContext", params));
        }
    }
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut candidates = names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)));
    candidates.find(|program| program.is_file())
}

/// Whether this program is installed; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        skip(&format!("no {program} in PATH"));
    }
    there
}

/// Says why a test is skipped; the CI skips none.
#[track_caller]
pub(crate) fn skip(why: &str) {
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    assert!(!is_ci, "{why}");
    eprintln!("skipped: {why}");
}

#[track_caller]
fn text(value: &Value, member: &str) -> String {
    let text = value[member].as_str();
    text.unwrap_or_else(|| panic!("no {member} in {value}"))
        .to_owned()
}
