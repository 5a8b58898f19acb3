//! What every test of the page starts from, and the words of the page's language.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::browser::{Browser, Tab};
use crate::support::{Client, TestServer};

/// Text that would run, were it ever read as markup.
pub(super) const HOSTILE: &str =
    "<script>window.hit = 1</script><img src=x onerror=\"window.hit = 2\">";

/// What a demo task of a click is called.
pub(super) const SAMPLE: &str = "Sample Long-Running Task";

/// A server, one session of it, and a tab that shows that session live.
pub(super) struct Scene {
    pub(super) tab: Tab,
    pub(super) mine: Client,
    pub(super) server: TestServer,
    pub(super) browser: Arc<Browser>,
}

impl Scene {
    /// `None` where there is no browser to see it with.
    pub(super) fn open() -> Option<Scene> {
        Scene::with(TestServer::start(&[]))
    }

    #[track_caller]
    pub(super) fn with(server: TestServer) -> Option<Scene> {
        let browser = Browser::get()?;
        let tab = browser.open(&address(&server, "mine"));
        tab.wait_for("document.querySelector('#live').dataset.live === 'yes'");
        tab.wait_for(
            "document.querySelector('#list li') || !document.querySelector('#empty').hidden",
        );
        // The forms of the server's types come later, and move what is below them.
        tab.wait_for("document.querySelector('#types').children.length > 0");
        Some(Scene {
            tab,
            mine: server.session("mine"),
            server,
            browser,
        })
    }

    /// The only task of the session, as the server has it.
    #[track_caller]
    pub(super) fn only_task(&self) -> Value {
        let list = self.mine.get("/tasks").expect(200).json();
        assert_eq!(list["total"], 1, "{list}");
        list["tasks"][0].clone()
    }
}

pub(super) fn address(server: &TestServer, session: &str) -> String {
    format!("http://{}/?session={session}", server.addr())
}

/// The row of the task of that name, in the page's language.
pub(super) fn row(name: &str) -> String {
    let name = json!(name);
    format!(
        "[...document.querySelectorAll('#list > li')]
            .find((row) => row.querySelector('.name').textContent === {name})"
    )
}

/// The button that says `word`, within an element.
pub(super) fn button(within: &str, word: &str) -> String {
    let word = json!(word);
    format!("[...({within}).querySelectorAll('button')].find((b) => b.innerText.trim() === {word})")
}

pub(super) fn on(selector: &str) -> String {
    format!("document.querySelector({})", json!(selector))
}

/// The condition that the row of that task is in that status, and looks it.
pub(super) fn is(name: &str, status: &str) -> String {
    let row = row(name);
    let word = status[..1].to_uppercase() + &status[1..];
    format!(
        "({row}).dataset.status === '{status}' && ({row}).querySelector('.status').textContent.startsWith('{word}')"
    )
}
