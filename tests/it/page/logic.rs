//! What the page's modules do apart from its elements, in the browser that runs them.

use serde_json::json;

use crate::browser::{Browser, Tab};
use crate::support::TestServer;

/// A tab of the server that can import its modules, by the path that `assets` gives.
fn modules() -> Option<(TestServer, Tab)> {
    let server = TestServer::start(&[]);
    let tab = Browser::get()?.open(&format!("http://{}/typo", server.addr()));
    tab.eval("window.at = (name) => new URL(name, document.querySelector('link[rel=stylesheet]').href).href; 0");
    tab.complaints();
    Some((server, tab))
}

#[test]
fn words_and_times_are_short_and_true() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    let spelled = tab.eval(
        "import(at('format.js')).then(({ duration }) => [0, 49, 50, 949, 9949, 9950, 59999, 60000, 3599999, 3600000].map(duration))",
    );
    let expected = json!([
        "< 0.1 s", "< 0.1 s", "0.1 s", "0.9 s", "9.9 s", "9 s", "59 s", "1:00", "59:59", "1:00:00"
    ]);
    assert_eq!(spelled, expected);
    let quoted = tab.eval("import(at('format.js')).then(({ quote }) => quote(\"it's $HOME\"))");
    assert_eq!(quoted, r"'it'\''s $HOME'");
}

#[test]
fn a_checklist_knows_what_is_done_and_what_is_to_come() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    let list = |plan: &str, reports: &str, task: &str| {
        tab.eval(&format!(
            "import(at('format.js')).then(({{ checklist }}) => checklist({plan}, {reports}, {task}, 100).map(({{ name, state, ms }}) => [name, state, ms ?? null]))"
        ))
    };
    let plan = "['a', 'b', 'a']";
    let reports = "[{ step: 'a', at: 10 }, { step: 'a', at: 20 }, { step: 'b', at: 30 }]";
    assert_eq!(
        list(plan, reports, "{ status: 'running' }"),
        json!([["a", "done", 20], ["b", "running", 70], ["a", "todo", null]])
    );
    assert_eq!(
        list(plan, reports, "{ status: 'failed', completedAt: 50 }"),
        json!([["a", "done", 20], ["b", "failed", 20], ["a", "todo", null]])
    );
    assert_eq!(
        list("[]", reports, "{ status: 'completed', completedAt: 50 }"),
        json!([["a", "done", 20], ["b", "done", 20]])
    );
    assert_eq!(
        list("['a']", "[]", "{ status: 'pending' }"),
        json!([["a", "todo", null]])
    );
}

#[test]
fn an_address_says_what_is_shown_and_nothing_else() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    let both = tab.eval(
        "import(at('address.js')).then(({ parse, format }) => {
            const view = parse('?status=failed&search=a%26b&utm_source=x');
            return [view.status, view.search, view.task, format(view)];
        })",
    );
    assert_eq!(
        both,
        json!(["failed", "a&b", "", "?status=failed&search=a%26b"])
    );
}

#[test]
fn a_store_holds_one_page_whatever_happens() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    let seen = tab.eval(
        "import(at('store.js')).then(async ({ Store, PAGE }) => {
            const task = (n, status = 'pending') => ({ id: String(n).padStart(5, '0'), name: 'n' + n, status, attempt: 1, sessionKey: 's' });
            const answers = [], asked = [];
            const store = new Store({
                session: () => 's', told() {},
                get: (path) => { asked.push(path); return new Promise((go) => answers.push(go)); },
            });
            const listed = (from, to, total, older) => ({ tasks: Array.from({ length: to - from }, (_, i) => task(to - 1 - i)), total, nextCursor: older });
            const out = [];
            let loading = store.load();
            answers.shift()(listed(900, 900 + PAGE, 1000, '00900'));
            await loading;
            out.push(store.tasks.size, store.hear('progress', { taskId: '00001', status: 'running' }), store.hear('created', { taskId: '01001', status: 'pending' }));
            // A new one comes in, the oldest of the page leaves.
            store.add(task(1001));
            out.push(store.tasks.size, store.tasks.has('00900'), store.older);
            // An event over a list that is older.
            loading = store.load();
            store.hear('cancelled', { taskId: '00999', status: 'cancelled', progress: 5 });
            answers.shift()(listed(902, 1002, 1001, '00902'));
            await loading;
            out.push(store.tasks.get('00999').status);
            // The answer to a question of before is not shown.
            const late = store.load();
            store.reset({ status: 'failed', search: 'x y', before: '' });
            loading = store.load();
            answers.pop()({ tasks: [task(3, 'failed')], total: 1, nextCursor: null });
            await loading;
            answers.pop()(listed(900, 1000, 1000, null));
            await late;
            out.push(store.ids(), asked.at(-1));
            // Whoever leaves the filter leaves the page.
            out.push(store.hear('retried', { taskId: '00003', status: 'pending' }), store.tasks.size);
            return out;
        })",
    );
    let expected = json!([
        100,
        true,
        false,
        100,
        false,
        "00901",
        "cancelled",
        ["00003"],
        "/tasks?limit=100&status=failed&search=x+y",
        false,
        0
    ]);
    assert_eq!(seen, expected);
}

/// A hub whose time runs a hundred times as fast, over streams that say one thing and then nothing.
const HUB: &str = "import(at('stream.js')).then(({ Hub }) => {
    const real = setTimeout;
    window.setTimeout = (action, ms) => real(action, ms / 100);
    window.asked = [];
    window.fetch = async (url, { signal }) => {
        asked.push(url);
        return new Response(new ReadableStream({ start(stream) {
            stream.enqueue(new TextEncoder().encode('{\"event\":\"state\"}\\n\\n'));
            signal.addEventListener('abort', () => stream.error(new Error('aborted')));
        } }));
    };
    window.hub = new Hub();
    return 0;
})";

#[test]
fn a_connection_that_is_silent_for_too_long_is_given_up_and_tried_again() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    tab.eval(HUB);
    let seen = tab.eval(
        "new Promise((go) => {
            const seen = [];
            const stop = hub.listen({ url: '/a' }, ({ type }) => {
                seen.push(type);
                if (seen.length === 6) { stop(); go(seen); }
            });
        })",
    );
    assert_eq!(
        seen,
        json!(["open", "events", "lost", "open", "events", "lost"])
    );
    // A browser that is told that it is offline does not wait for that; back online it does not wait either.
    let seen = tab.eval(
        "new Promise((go) => {
            const seen = [];
            const stop = hub.listen({ url: '/b' }, ({ type }) => {
                seen.push(type);
                if (type === 'events') dispatchEvent(new Event(seen.length > 2 ? 'online' : 'offline'));
                if (seen.length === 6) { stop(); go(seen); }
            });
        })",
    );
    assert_eq!(
        seen,
        json!(["open", "events", "lost", "open", "events", "lost"])
    );
    tab.wait_for("hub.open === 0 && hub.all.size === 0");
}

#[test]
fn what_tabs_share_is_asked_for_once_and_no_more_than_four_are_open() {
    let Some((_server, tab)) = modules() else {
        return;
    };
    tab.eval(HUB);
    let seen = tab.eval(
        "new Promise((go) => {
            const seen = {};
            const stops = [];
            const listen = (name, options) => stops.push(hub.listen(options, ({ type, code }) => { seen[name] ??= code ?? type; }));
            for (const n of [1, 2, 3]) listen('own ' + n, { url: '/own/' + n, resume: null });
            listen('first', { url: '/shared' });
            setTimeout(() => {
                listen('second', { url: '/shared' });
                listen('fifth', { url: '/own/4', resume: null });
                setTimeout(() => { stops.forEach((stop) => stop()); go([seen, asked.length]); }, 5000);
            }, 5000);
        })",
    );
    let expected = json!([{
        "own 1": "open", "own 2": "open", "own 3": "open", "first": "open", "second": "joined", "fifth": "no_place",
    }, 4]);
    assert_eq!(seen, expected);
    tab.wait_for("hub.open === 0 && hub.all.size === 0");
}
