//! What is wrong with one field of a request.

use serde::Serialize;

/// What is wrong with one field: of the arguments, a body or a query.
///
/// ```
/// use async_task_system::FieldError;
///
/// let error = FieldError::new("steps[2].name", "name must not be empty");
/// let json = serde_json::to_value(&error)?;
/// assert_eq!(json["field"], "steps[2].name");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FieldError {
    /// The field, as in `steps[2].name`; empty where the whole is meant.
    pub field: String,
    /// What it must be instead, for a person.
    pub message: String,
}

impl FieldError {
    /// `message` tells what `field` must be.
    ///
    /// ```
    /// # use async_task_system::FieldError;
    /// let error = FieldError::new("month", "month must be a number from 1 to 12");
    /// assert_eq!(error.field, "month");
    /// ```
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> FieldError {
        FieldError {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The same, where `parent` is the field that holds what was checked.
    pub(crate) fn under(mut self, parent: &str) -> FieldError {
        let dot = if self.field.is_empty() { "" } else { "." };
        self.field.insert_str(0, &format!("{parent}{dot}"));
        self
    }
}
