//! Executors whose arguments are read into a type of their own.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::executor::{FieldError, Outcome, TaskContext, TaskError, TaskExecutor, TaskInput};

/// One attempt: its arguments, and the function that works on them.
pub(super) struct Typed<T, F> {
    arguments: T,
    work: Arc<F>,
}

impl<T: DeserializeOwned, F> Typed<T, F> {
    pub(super) fn new(input: &TaskInput, work: Arc<F>) -> Result<Typed<T, F>, TaskError> {
        let arguments = read(input).map_err(|error| TaskError::new(error.message))?;
        Ok(Typed { arguments, work })
    }
}

impl<T, F> TaskExecutor for Typed<T, F>
where
    T: Send,
    F: Fn(&mut T, &mut TaskContext<'_>) -> Result<Outcome, TaskError> + Send + Sync,
{
    fn run(&mut self, ctx: &mut TaskContext<'_>) -> Result<Outcome, TaskError> {
        (self.work)(&mut self.arguments, ctx)
    }
}

/// Whether the arguments can be read as a `T`.
pub(super) fn check<T: DeserializeOwned>(input: &TaskInput) -> Result<(), Vec<FieldError>> {
    read::<T>(input).map(drop).map_err(|error| vec![error])
}

/// The arguments as a `T`; the error names the field.
fn read<T: DeserializeOwned>(input: &TaskInput) -> Result<T, FieldError> {
    let mut json = serde_json::Deserializer::from_str(input.arguments_json());
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let parent = error.path().to_string();
        // At the top the path is `.`.
        field_error(parent.trim_start_matches('.'), &error.inner().to_string())
    })
}

/// Serde's words about what is wrong at `path`, without the place in the text.
fn field_error(path: &str, words: &str) -> FieldError {
    let words = words
        .rsplit_once(" at line ")
        .map_or(words, |(words, _)| words);
    if let Some(name) = missing_field(words) {
        // Serde's path is that of the object which lacks it.
        let dot = if path.is_empty() { "" } else { "." };
        let field = format!("{path}{dot}{name}");
        let message = format!("{field} is required");
        return FieldError::new(field, message);
    }
    let subject = if path.is_empty() {
        "the arguments"
    } else {
        path
    };
    FieldError::new(path, format!("{subject}: {words}"))
}

/// The name in serde's "missing field `name`".
fn missing_field(words: &str) -> Option<&str> {
    words.strip_prefix("missing field `")?.strip_suffix('`')
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::task::TaskId;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Arguments {
        month: u8,
        #[serde(default)]
        rows: Vec<Row>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code)]
    struct Row {
        price: f64,
    }

    #[test]
    fn an_error_names_its_field() {
        for (arguments, field, message) in [
            (json!({}), "month", "month is required"),
            (
                json!({ "month": "June" }),
                "month",
                "month: invalid type: string \"June\", expected u8",
            ),
            (
                json!({ "month": 1, "rows": [{ "price": 1 }, {}] }),
                "rows[1].price",
                "rows[1].price is required",
            ),
            (
                json!({ "month": 1, "rows": [{ "price": true }] }),
                "rows[0].price",
                "rows[0].price: invalid type: boolean `true`, expected f64",
            ),
            (
                json!({ "month": 1, "yaer": 2026 }),
                "yaer",
                "yaer: unknown field `yaer`, expected `month` or `rows`",
            ),
            (
                json!(7),
                "",
                "the arguments: invalid type: integer `7`, expected struct Arguments",
            ),
        ] {
            let arguments = serde_json::value::to_raw_value(&arguments).ok();
            let input = TaskInput::new(TaskId::nil(), "t".into(), "t".into(), 1, arguments);
            let error = read::<Arguments>(&input).expect_err("it does not fit");
            assert_eq!(error, FieldError::new(field, message));
        }
    }
}
