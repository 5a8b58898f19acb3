//! Drives a real Chromium over its debugging pipe.
//!
//! All tests of one process share one Chromium, which ends with the last of them; each visit
//! is a browser context of its own, with its own storage and its own list of complaints.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::TempDir;

/// A browser on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(40);

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// Locks, also after another test has panicked with the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the reading thread and the visits share.
#[derive(Default)]
struct Mailbox {
    answers: Mutex<HashMap<u64, Sender<Value>>>,
    /// What pages complained of, by their debugging session.
    complaints: Mutex<HashMap<String, Vec<String>>>,
}

pub(crate) struct Browser {
    child: Mutex<Child>,
    pipe: Mutex<ChildStdin>,
    mailbox: Arc<Mailbox>,
    next: AtomicU64,
    _profile: TempDir,
}

impl Browser {
    /// The Chromium of this process. `None`, with a word, where the machine has none; in CI
    /// that is a failure.
    pub(crate) fn get() -> Option<Arc<Browser>> {
        static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());
        let mut shared = lock(&SHARED);
        if let Some(browser) = shared.upgrade() {
            return Some(browser);
        }
        let Some(program) = find_program() else {
            assert!(std::env::var_os("CI").is_none(), "CI must have a Chromium");
            eprintln!("skipped: no Chromium found (looked for {NAMES:?})");
            return None;
        };
        let browser = Arc::new(Browser::launch(&program));
        *shared = Arc::downgrade(&browser);
        Some(browser)
    }

    fn launch(program: &str) -> Browser {
        let profile = TempDir::new();
        // Chromium reads commands from descriptor 3 and answers on 4.
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#)
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Chromium starts");
        let pipe = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mailbox = Arc::<Mailbox>::default();
        let inside = mailbox.clone();
        std::thread::spawn(move || deliver(answers, &inside));
        Browser {
            child: Mutex::new(child),
            pipe: Mutex::new(pipe),
            mailbox,
            next: AtomicU64::new(1),
            _profile: profile,
        }
    }

    /// # Errors
    ///
    /// The browser's own word for why not: a page that is just being left has no context.
    fn try_command(
        &self,
        session: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> Result<Value, String> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (sender, answer) = channel();
        lock(&self.mailbox.answers).insert(id, sender);
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let bytes = message.to_string() + "\0";
        lock(&self.pipe)
            .write_all(bytes.as_bytes())
            .expect("Chromium listens");
        let answer = answer.recv_timeout(PATIENCE);
        let answer = answer.unwrap_or_else(|_| panic!("Chromium does not answer to {method}"));
        match answer.get("error") {
            Some(error) => Err(format!("{method}: {error}")),
            None => Ok(answer["result"].clone()),
        }
    }

    fn command(&self, session: Option<&str>, method: &str, parameters: Value) -> Value {
        let answer = self.try_command(session, method, parameters);
        answer.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Opens a page in a context of its own, and waits until it has loaded.
    pub(crate) fn visit(self: &Arc<Browser>, url: &str) -> Page {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let context = self.command(None, "Target.createBrowserContext", json!({}));
        let context = text(&context["browserContextId"]);
        let blank = json!({ "url": "about:blank", "browserContextId": context });
        let target = self.command(None, "Target.createTarget", blank);
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.command(None, "Target.attachToTarget", attach);
        let page = Page {
            browser: self.clone(),
            context,
            session: text(&attached["sessionId"]),
        };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            page.command(domain, json!({}));
        }
        page.open(url);
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let close = json!({ "id": 0, "method": "Browser.close" }).to_string() + "\0";
        let _ = lock(&self.pipe).write_all(close.as_bytes());
        let mut child = lock(&self.child);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn find_program() -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let places = path
        .split(':')
        .flat_map(|folder| NAMES.map(|name| format!("{folder}/{name}")));
    places
        .into_iter()
        .find(|place| std::path::Path::new(place).is_file())
}

/// Hands each answer to the one who waits for it, and keeps what pages complain of.
fn deliver(mut answers: impl BufRead, mailbox: &Mailbox) {
    let mut bytes = Vec::new();
    while matches!(answers.read_until(0, &mut bytes), Ok(n) if n > 0) {
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bytes.clear();
        if let Some(id) = message["id"].as_u64() {
            if let Some(waiting) = lock(&mailbox.answers).remove(&id) {
                let _ = waiting.send(message);
            }
        } else if let Some(complaint) = complaint(&message) {
            let session = message["sessionId"].as_str().unwrap_or_default();
            let mut complaints = lock(&mailbox.complaints);
            complaints
                .entry(session.to_owned())
                .or_default()
                .push(complaint);
        }
    }
}

/// An exception, an error on the console, or one of the browser's own, like a policy's.
fn complaint(message: &Value) -> Option<String> {
    let parameters = &message["params"];
    let told = match message["method"].as_str()? {
        "Runtime.exceptionThrown" => &parameters["exceptionDetails"],
        "Runtime.consoleAPICalled" if parameters["type"] == "error" => &parameters["args"],
        "Log.entryAdded" if parameters["entry"]["level"] == "error" => &parameters["entry"],
        _ => return None,
    };
    Some(told.to_string())
}

/// One page in a context of its own.
pub(crate) struct Page {
    browser: Arc<Browser>,
    context: String,
    session: String,
}

impl Page {
    fn command(&self, method: &str, parameters: Value) -> Value {
        self.browser
            .command(Some(&self.session), method, parameters)
    }

    pub(crate) fn open(&self, url: &str) {
        self.command("Page.navigate", json!({ "url": url }));
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'");
    }

    /// The value of an expression, awaited where it is a promise.
    #[track_caller]
    pub(crate) fn eval(&self, expression: &str) -> Value {
        let answer = self.try_eval(expression);
        let answer = answer.unwrap_or_else(|error| panic!("{error}"));
        let thrown = answer.get("exceptionDetails");
        assert!(thrown.is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    fn try_eval(&self, expression: &str) -> Result<Value, String> {
        let parameters = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
        });
        let session = Some(self.session.as_str());
        let browser = &self.browser;
        browser.try_command(session, "Runtime.evaluate", parameters)
    }

    /// Waits until the expression is true, also on the page that comes after this one.
    #[track_caller]
    pub(crate) fn wait_for(&self, expression: &str) {
        let start = Instant::now();
        let condition = format!("Boolean({expression})");
        let holds = || {
            let answer = self.try_eval(&condition);
            answer.is_ok_and(|answer| answer["result"]["value"] == true)
        };
        while !holds() {
            assert!(
                start.elapsed() < PATIENCE,
                "never {expression}: {}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks what the selector finds, once it is there and visible.
    #[track_caller]
    pub(crate) fn click(&self, selector: &str) {
        let quoted = json!(selector);
        self.wait_for(&format!(
            "document.querySelector({quoted})?.checkVisibility()"
        ));
        self.eval(&format!("document.querySelector({quoted}).click()"));
    }

    /// Types over what stands in a field.
    #[track_caller]
    pub(crate) fn fill(&self, selector: &str, text: &str) {
        let (selector, text) = (json!(selector), json!(text));
        self.eval(&format!(
            "(() => {{ const field = document.querySelector({selector}); field.value = {text}; \
             field.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()"
        ));
    }

    /// Presses a key, for real.
    pub(crate) fn press(&self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => 0,
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            if key == "Enter" && kind == "keyDown" {
                event["text"] = json!("\r");
            }
            self.command("Input.dispatchKeyEvent", event);
        }
    }

    /// All text of the page, shown or not.
    pub(crate) fn text(&self) -> String {
        let text = self.eval(
            "[...document.body.children].filter(({ tagName }) => tagName !== 'SCRIPT')\
             .map(({ textContent }) => textContent).join(' ')",
        );
        text.as_str().unwrap_or_default().to_owned()
    }

    /// What the page or the browser complained of so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = lock(&self.browser.mailbox.complaints);
        complaints.get(&self.session).cloned().unwrap_or_default()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // A test that has failed already must not fail twice.
        if !std::thread::panicking() {
            let context = json!({ "browserContextId": self.context });
            self.browser
                .command(None, "Target.disposeBrowserContext", context);
        }
    }
}
