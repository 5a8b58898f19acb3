//! Holds every answer against the API's document: what it does not describe fails the test.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::Reply;

/// The document, as it stands in the source.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../../src/api/openapi.json");
    serde_json::from_str(text).expect("JSON")
});

/// What answers of every kind may carry, besides what the document names for each.
const COMMON: [&str; 8] = [
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "transfer-encoding",
    "vary",
    "x-content-type-options",
];

/// Where a `$ref` leads.
fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("within the document");
            resolve(DOCUMENT.pointer(pointer).expect("it leads somewhere"))
        }
        None => value,
    }
}

/// A schema of the document, compiled once.
fn compiled(schema: &Value) -> Arc<Validator> {
    static COMPILED: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> =
        LazyLock::new(Default::default);
    let mut compiled = COMPILED.lock().expect("no poison");
    let make = || {
        // References are to the document: the schema stands in it.
        let root = json!({ "allOf": [schema], "components": DOCUMENT["components"] });
        let options = jsonschema::options().with_draft(Draft::Draft202012);
        let validator = options.should_validate_formats(true).build(&root);
        Arc::new(validator.expect("a valid schema"))
    };
    compiled
        .entry(schema.to_string())
        .or_insert_with(make)
        .clone()
}

#[track_caller]
fn validate(schema: &Value, value: &Value, context: &str) {
    let errors: Vec<_> = compiled(schema)
        .iter_errors(value)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    assert!(
        errors.is_empty(),
        "not as described: {errors:#?}\n{context}"
    );
}

/// The path item for a path: the one with the fewest parameters, and the longest of those.
fn path_item(path: &str) -> Option<&'static Value> {
    let fits = |template: &str| {
        let (have, want) = (path.split('/'), template.split('/'));
        have.clone().count() == want.clone().count()
            && have
                .zip(want)
                .all(|(have, want)| match want.split_once('}') {
                    Some((_, rest)) => have.len() > rest.len() && have.ends_with(rest),
                    None => have == want,
                })
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths").iter();
    let fitting = paths.filter(|(template, _)| fits(template));
    let rank = |template: &str| (template.matches('{').count(), usize::MAX - template.len());
    fitting
        .min_by_key(|(template, _)| rank(template))
        .map(|(_, item)| item)
}

/// The description of an answer to this request, and where it is none of a route's own, its place.
fn described(method: &str, path: &str, status: u16) -> &'static Value {
    let shared = |name: &str| &DOCUMENT["components"]["responses"][name];
    let Some(item) = path_item(path) else {
        return match status {
            404 => shared("NotFound"),
            400 => shared("BadRequest"),
            _ => shared("StoreError"),
        };
    };
    let name = if method == "HEAD" {
        "get"
    } else {
        &method.to_lowercase()
    };
    let Some(operation) = item.get(name) else {
        return match status {
            405 => shared("MethodNotAllowed"),
            400 => shared("BadRequest"),
            _ => shared("StoreError"),
        };
    };
    let responses = &operation["responses"];
    let own = responses.get(status.to_string());
    resolve(own.unwrap_or(&responses["default"]))
}

fn path_of(target: &str) -> &str {
    let path = target.split('?').next().unwrap_or_default();
    match path.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    }
}

fn media_type(reply: &Reply) -> &str {
    let value = reply.header("Content-Type").unwrap_or_default();
    value.split(';').next().unwrap_or_default()
}

/// Checks status, headers and body of an answer; `body` false where it is left out or comes later.
#[track_caller]
pub(super) fn check(method: &str, target: &str, reply: &Reply, body: bool) {
    if method == "OPTIONS" && reply.status == 204 {
        return;
    }
    let context = format!("{method} {target} → {reply}");
    let response = described(method, path_of(target), reply.status);
    check_headers(response, reply, &context);
    let media_type = media_type(reply);
    let Some(content) = response.get("content") else {
        assert!(reply.body.is_empty(), "no body is described: {context}");
        return;
    };
    let content = content.get(media_type);
    let content = content.unwrap_or_else(|| panic!("{media_type} is not described: {context}"));
    if body && media_type.ends_with("json") && media_type != "application/x-ndjson" {
        validate(&content["schema"], &reply.json(), &context);
    }
}

#[track_caller]
fn check_headers(response: &'static Value, reply: &Reply, context: &str) {
    static NONE: Value = Value::Null;
    let described = response.get("headers").unwrap_or(&NONE).as_object();
    for (name, header) in described.into_iter().flatten() {
        let header = resolve(header);
        match reply.header(name) {
            Some(value) => validate(&header["schema"], &json!(value), context),
            None => assert!(header["required"] != true, "{name} is missing: {context}"),
        }
    }
    for (name, _) in &reply.headers {
        let known = COMMON.contains(&&**name) || name.starts_with("access-control-");
        let mut own = described.into_iter().flatten();
        let is_described = known || own.any(|(own, _)| own.eq_ignore_ascii_case(name));
        assert!(is_described, "{name} is not described: {context}");
    }
}

/// What the items of a stream must be.
#[derive(Clone)]
pub(super) struct Items {
    schema: &'static Value,
    pub(super) are_lines: bool,
}

impl Items {
    pub(super) fn of(method: &str, target: &str, head: &Reply) -> Option<Items> {
        let response = described(method, path_of(target), head.status);
        let media_type = media_type(head);
        let schema = response
            .get("content")?
            .get(media_type)?
            .get("x-item-schema")?;
        let are_lines = media_type == "application/x-ndjson";
        Some(Items { schema, are_lines })
    }

    #[track_caller]
    pub(super) fn check(&self, item: &Value) {
        validate(self.schema, item, &item.to_string());
    }
}
