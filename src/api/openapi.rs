//! `/api/v1/openapi.json` and `/docs`: what this server answers, for programs and for people.
//!
//! The document is written by hand in `openapi.json`, in the order in which people read it. Tests
//! hold it against the route table, the error codes in the source, and every answer that the
//! integration tests see.

use super::call::Api;
use super::{assets, page};
use crate::http::Request;
use crate::http::router::Answer;

/// The document, in this version.
pub(super) fn document(_: &Api, request: &Request<'_>, _: &str) -> Answer {
    Ok(assets::send(request, "application/json", "openapi.json"))
}

/// The page, which fetches the document itself.
pub(super) fn page(_: &Api, request: &Request<'_>, _: &str) -> Answer {
    Ok(page::docs(request))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::config::Config;
    use crate::executor::ExecutorRegistry;
    use crate::http::router::Router;
    use crate::player::Player;
    use crate::store::Scenes;
    use crate::system::TaskSystem;

    fn parsed() -> Value {
        serde_json::from_str(&assets::text("openapi.json")).expect("JSON")
    }

    /// Calls `see` for every object in `value`.
    fn each_object(value: &Value, see: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                see(object);
                object.values().for_each(|value| each_object(value, see));
            }
            Value::Array(values) => values.iter().for_each(|value| each_object(value, see)),
            _ => {}
        }
    }

    fn texts(value: &Value) -> BTreeSet<String> {
        let one = value.as_str().map(str::to_owned);
        let many = value.as_array().into_iter().flatten();
        let many = many.filter_map(|text| text.as_str().map(str::to_owned));
        one.into_iter().chain(many).collect()
    }

    /// Method, pattern as the router writes it, and the operation.
    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            // `/s/{token}.svg` is told from `/s/{token}` by its handler.
            let segments = path.split('/').map(|segment| {
                let name = segment
                    .strip_prefix('{')
                    .and_then(|rest| rest.split_once('}'));
                name.map_or(segment.to_owned(), |(name, _)| format!(":{name}"))
            });
            let pattern = segments.collect::<Vec<_>>().join("/");
            for (method, operation) in item.as_object().expect("operations") {
                all.push((method.to_uppercase(), pattern.clone(), operation));
            }
        }
        all
    }

    #[test]
    fn the_document_has_the_routes_of_the_router_and_no_others() {
        let config = Config::from_pairs([("PORT", "0")]).expect("valid");
        let system = TaskSystem::start(&config, ExecutorRegistry::new()).expect("it starts");
        let player = Player::new(system.execution().clone());
        let api = Arc::new(Api::new(system.clone(), player, Scenes::new(), config));
        let mut routes = super::super::routes(&api);
        let jobs = crate::jobs::Jobs::start(&Config::default(), system.execution()).expect("off");
        routes.extend(jobs.routes(api.streams()));
        let table = Router::new(routes).table();
        system.stop();

        let document = parsed();
        let described: BTreeSet<_> = operations(&document)
            .into_iter()
            .map(|(method, pattern, _)| (method, pattern))
            .collect();
        // `/a/*` stands for all that is below it.
        let is_served = |(method, pattern): &(String, String)| {
            table.iter().any(|(m, p)| {
                let below = p
                    .strip_suffix('*')
                    .is_some_and(|root| pattern.starts_with(root));
                m == method && (p == pattern || below)
            })
        };
        let is_described = |(method, pattern): &(&str, &str)| {
            described.iter().any(|(m, p)| {
                let below = pattern
                    .strip_suffix('*')
                    .is_some_and(|root| p.starts_with(root));
                m == method && (p == pattern || below)
            })
        };
        let only_described: Vec<_> = described.iter().filter(|r| !is_served(r)).collect();
        let only_served: Vec<_> = table.iter().filter(|r| !is_described(r)).collect();
        assert!(
            only_described.is_empty(),
            "{only_described:?} are not served"
        );
        assert!(only_served.is_empty(), "{only_served:?} are not described");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_part_is_used() {
        let document = parsed();
        let mut used = BTreeSet::new();
        each_object(&document, &mut |object| {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').expect("within the document");
                assert!(document.pointer(pointer).is_some(), "{reference}");
                used.insert(reference.to_owned());
            }
        });
        // Any path and any method may answer with these.
        used.extend(
            ["NotFound", "MethodNotAllowed"].map(|r| format!("#/components/responses/{r}")),
        );
        for (kind, parts) in document["components"].as_object().expect("components") {
            for name in parts.as_object().expect("parts").keys() {
                let reference = format!("#/components/{kind}/{name}");
                let is_scheme = kind == "securitySchemes";
                assert!(is_scheme || used.contains(&reference), "{reference}");
            }
        }
    }

    #[test]
    fn what_is_blank_is_what_the_handlers_take_for_blank() {
        let schema = &parsed()["components"]["schemas"]["NotBlank"];
        let not_blank = jsonschema::validator_for(schema).expect("a schema");
        for c in (0..=0xffff).filter_map(char::from_u32) {
            let text = c.to_string();
            let is_blank = text.trim().is_empty();
            assert_eq!(not_blank.is_valid(&text.into()), !is_blank, "{c:?}");
        }
    }

    #[test]
    fn every_operation_is_complete() {
        let document = parsed();
        let tags = document["tags"].as_array().expect("tags");
        let tags: BTreeSet<_> = tags.iter().filter_map(|tag| tag["name"].as_str()).collect();
        let mut ids = BTreeSet::new();
        for (method, pattern, operation) in operations(&document) {
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            assert!(operation["summary"].is_string(), "{id}");
            assert!(
                tags.contains(operation["tags"][0].as_str().expect("a tag")),
                "{id}"
            );
            let parameters = operation["parameters"].as_array().expect("parameters");
            let in_path = parameters.iter().filter_map(|parameter| {
                let pointer = parameter["$ref"].as_str().and_then(|r| r.strip_prefix('#'));
                let parameter = pointer.map_or(Some(parameter), |p| document.pointer(p))?;
                (parameter["in"] == "path").then(|| parameter["name"].as_str())?
            });
            let wanted = pattern
                .split('/')
                .filter_map(|segment| segment.strip_prefix(':'));
            assert!(
                in_path.eq(wanted),
                "the path's parameters of {method} {pattern}"
            );
            let body = operation.get("requestBody").is_some();
            assert!(!body || method == "POST", "{id}");
            assert!(!body || operation["responses"].get("415").is_some(), "{id}");
        }
    }

    /// `Problem::new(404, "not_found", …)` and its like, with line breaks anywhere.
    fn codes_in(source: &str) -> BTreeSet<String> {
        let source = source
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let flat = source.split_whitespace().collect::<Vec<_>>().join(" ");
        let pieces: Vec<_> = flat.split('"').collect();
        let after_status = |before: &str| {
            let number = before.strip_suffix(", ").unwrap_or_default();
            let start = number.len().saturating_sub(3);
            matches!(number.get(start..).map(str::parse), Some(Ok(400..600)))
        };
        let pairs = pieces.windows(2).filter(|pair| after_status(pair[0]));
        pairs.map(|pair| pair[1].to_owned()).collect()
    }

    fn codes_below(folder: &Path, codes: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                codes_below(&path, codes);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                codes.extend(codes_in(&std::fs::read_to_string(path).expect("text")));
            }
        }
    }

    #[test]
    fn the_error_codes_are_those_of_the_source() {
        let document = parsed();
        let listed = texts(&document["components"]["schemas"]["ErrorCode"]["enum"]);
        let mut thrown = BTreeSet::new();
        codes_below(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut thrown,
        );
        let missing: Vec<_> = thrown.difference(&listed).collect();
        assert!(missing.is_empty(), "{missing:?} are not in ErrorCode");
        let of_jobs = [
            "unauthorized",
            "access_denied",
            "database_unavailable",
            "database_refused",
        ];
        let is_ours = |code: &&String| !code.starts_with("job_") && !of_jobs.contains(&&***code);
        let gone: Vec<_> = listed.difference(&thrown).filter(is_ours).collect();
        assert!(gone.is_empty(), "nothing says {gone:?}");

        let mut answered = BTreeSet::new();
        for part in [
            &document["components"]["responses"],
            &document["components"]["schemas"],
        ] {
            each_object(part, &mut |object| {
                if let Some(code) = object.get("properties").and_then(|p| p.get("code")) {
                    answered.extend(texts(&code["const"]));
                    answered.extend(texts(&code["enum"]));
                }
            });
        }
        assert_eq!(answered, listed, "each code belongs to an answer");
    }
}
