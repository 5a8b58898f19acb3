//! The fields of a JSON body and the parameters of a query. One response names every mistake in them.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::field_error::FieldError;
use crate::http::{Problem, Request};
use crate::nesting::{MAX_DEPTH, depth};

/// No valid body has so many fields. The search for repeated fields is quadratic, so it needs a limit.
const MAX_FIELDS: usize = 100;

/// The fields that were not read yet, and the errors so far. A field that is `null` counts as absent.
pub(crate) struct Fields<'a> {
    left: Vec<(String, &'a RawValue)>,
    /// Errors have this before the name of a field, for example `steps[2].`.
    prefix: String,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// The fields of the body. An empty body has none.
    pub(crate) fn parse(request: &Request<'a>) -> Result<Fields<'a>, Problem> {
        let body = request.body()?;
        let mut fields = Fields::new(Vec::new(), String::new());
        if body.is_empty() {
            return Ok(fields);
        }
        let coding = request.header("Content-Encoding").unwrap_or("identity");
        if !coding.eq_ignore_ascii_case("identity") {
            let message = "The body must not be compressed";
            let problem = Problem::new(415, "unsupported_media_type", message);
            return Err(problem.with("Accept-Encoding", "identity"));
        }
        let content_type = request.header("Content-Type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            let message = "The body must be JSON: send it with the header \
                           Content-Type: application/json";
            return Err(Problem::new(415, "unsupported_media_type", message));
        }
        fields.add(serde_json::from_slice(body).map_err(|error| not_fields(body, error))?);
        Ok(fields)
    }

    /// The fields of an object. Without an object there are none.
    pub(crate) fn of(object: Option<&'a RawValue>) -> Result<Fields<'a>, Vec<FieldError>> {
        let mut fields = Fields::new(Vec::new(), String::new());
        if let Some(object) = object {
            let pairs = serde_json::from_str(object.get());
            fields.add(pairs.map_err(|_| vec![FieldError::new("", "an object is needed")])?);
        }
        Ok(fields)
    }

    fn new(left: Vec<(String, &'a RawValue)>, prefix: String) -> Fields<'a> {
        Fields {
            left,
            prefix,
            errors: Vec::new(),
        }
    }

    fn add(&mut self, pairs: Pairs<'a>) {
        for (i, (name, value)) in pairs.0.into_iter().enumerate() {
            if i == MAX_FIELDS {
                self.fault(&name, format!("{name} is one field too many"));
                break;
            }
            if self.left.iter().any(|(n, _)| *n == name) {
                self.fault(&name, format!("{name} is given twice"));
            } else {
                self.left.push((name, value));
            }
        }
    }

    /// Records that `field` is wrong.
    pub(crate) fn fault(&mut self, field: &str, message: impl Into<String>) {
        let field = format!("{}{field}", self.prefix);
        self.errors.push(FieldError::new(field, message));
    }

    /// Records what a check has found in the field `parent`.
    pub(crate) fn fault_all(&mut self, parent: &str, checked: Result<(), Vec<FieldError>>) {
        for error in checked.err().unwrap_or_default() {
            let FieldError { field, message } = error.under(parent);
            self.fault(&field, message);
        }
    }

    /// The number of errors so far.
    pub(crate) fn faults(&self) -> usize {
        self.errors.len()
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.left.iter().position(|(n, _)| n == name)?;
        let (_, value) = self.left.swap_remove(at);
        (value.get() != "null").then_some(value)
    }

    /// A text of at most `max` characters.
    pub(crate) fn text(&mut self, name: &str, max: usize) -> Option<String> {
        let value = self.take(name)?;
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) if text.chars().count() <= max => Some(text),
            Ok(_) => {
                self.fault(name, format!("{name} must have at most {max} characters"));
                None
            }
            Err(_) => {
                let must = match value.get().starts_with('"') {
                    true => "must be Unicode: it has half of a surrogate pair",
                    false => "must be a string",
                };
                self.fault(name, format!("{name} {must}"));
                None
            }
        }
    }

    /// A text that is required and must not be blank. After an error the text is empty.
    pub(crate) fn required_text(&mut self, name: &str, max: usize) -> String {
        let faults = self.errors.len();
        let text = self.text(name, max).unwrap_or_default();
        if text.trim().is_empty() && self.errors.len() == faults {
            self.fault(name, format!("{name} is required"));
        }
        text
    }

    /// A whole number within `range`.
    pub(crate) fn whole<N>(&mut self, name: &str, range: RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i64> + PartialOrd + Display,
    {
        let value = self.take(name)?;
        // 5000.0 is a whole number too: some clients write all numbers as floats.
        let number = serde_json::from_str::<i64>(value.get()).ok().or_else(|| {
            let float = serde_json::from_str::<f64>(value.get()).ok()?;
            (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i64)
        });
        let number = number.and_then(|n| N::try_from(n).ok());
        let accepted = number.filter(|n| range.contains(n));
        if accepted.is_none() {
            let (min, max) = (range.start(), range.end());
            let message = format!("{name} must be a whole number from {min} to {max}");
            self.fault(name, message);
        }
        accepted
    }

    /// A number within `range`.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(name)?;
        let number = serde_json::from_str::<f64>(value.get()).ok();
        let accepted = number.filter(|n| range.contains(n));
        if accepted.is_none() {
            let (min, max) = (range.start(), range.end());
            self.fault(name, format!("{name} must be a number from {min} to {max}"));
        }
        accepted
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        let value = self.take(name)?;
        let flag = serde_json::from_str(value.get()).ok();
        if flag.is_none() {
            self.fault(name, format!("{name} must be true or false"));
        }
        flag
    }

    /// An object, as the client wrote it.
    pub(crate) fn object(&mut self, name: &str) -> Option<&'a RawValue> {
        let value = self.take(name)?;
        let problem = if !value.get().starts_with('{') {
            "must be an object"
        } else if depth(value.get()) > MAX_DEPTH {
            "is nested too deeply"
        } else {
            return Some(value);
        };
        self.fault(name, format!("{name} {problem}"));
        None
    }

    /// Any value, as the client wrote it.
    pub(crate) fn any(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take(name)
    }

    /// The elements of an array. `None` means that the field is absent or is not an array.
    pub(crate) fn array(&mut self, name: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.take(name)?.get()).ok()
    }

    /// The fields of an element of an array. Their errors have `name` before them. The caller hands the element to
    /// [`adopt`](Self::adopt) afterwards.
    pub(crate) fn element(&mut self, name: &str, value: &'a RawValue) -> Option<Fields<'a>> {
        match serde_json::from_str::<Pairs<'a>>(value.get()) {
            Ok(pairs) => {
                let mut fields = Fields::new(Vec::new(), format!("{name}."));
                fields.add(pairs);
                Some(fields)
            }
            Err(_) => {
                self.fault(name, format!("{name} must be an object"));
                None
            }
        }
    }

    /// Adds the errors of an element to these.
    pub(crate) fn adopt(&mut self, mut element: Fields<'_>) {
        element.refuse_unknown();
        self.errors.append(&mut element.errors);
    }

    fn refuse_unknown(&mut self) {
        for (name, _) in std::mem::take(&mut self.left) {
            self.fault(&name, format!("unknown field {name}"));
        }
    }

    /// # Errors
    ///
    /// All mistakes. An unknown field is one too.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        self.check().map_err(Problem::invalid)
    }

    /// As [`finish`](Self::finish), but it returns the errors without a response.
    pub(crate) fn check(mut self) -> Result<(), Vec<FieldError>> {
        self.refuse_unknown();
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(self.errors),
        }
    }
}

/// Why a body has no fields.
fn not_fields(body: &[u8], error: serde_json::Error) -> Problem {
    match serde_json::from_slice::<&RawValue>(body) {
        Ok(value) if !value.get().starts_with('{') => {
            let message = "The body must be a JSON object";
            Problem::new(400, "invalid_request", message)
        }
        Ok(_) => not_json(error),
        Err(error) => not_json(error),
    }
}

fn not_json(error: serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let message = format!("The body is not valid JSON: see line {line}, column {column}");
    Problem::new(400, "invalid_json", message)
}

/// The pairs of an object in their order. It keeps repeated names, which a map would lose.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The parameters of a query. They are checked like the fields of a body.
pub(crate) struct Query<'a> {
    pairs: &'a [(String, String)],
    errors: Vec<FieldError>,
}

impl<'a> Query<'a> {
    /// An unknown or repeated parameter is an error, which [`finish`](Self::finish) returns.
    pub(crate) fn new(request: &'a Request<'_>, known: &[&str]) -> Query<'a> {
        let pairs = request.query();
        let mut errors = Vec::new();
        for (i, (name, _)) in pairs.iter().enumerate() {
            if name != "session" && !known.contains(&name.as_str()) {
                let known = match known {
                    [] => "none is known here".to_owned(),
                    _ => format!("known are {}", known.join(", ")),
                };
                let message = format!("unknown query parameter {name}; {known}");
                errors.push(FieldError::new(name, message));
            } else if pairs[..i].iter().any(|(n, _)| n == name) {
                errors.push(FieldError::new(name, format!("{name} is given twice")));
            }
        }
        Query { pairs, errors }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.pairs.iter();
        pairs.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A value that `parse` accepts. The error message says with `wanted` what that is.
    pub(crate) fn parse<T>(
        &mut self,
        name: &str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = parse(self.get(name)?);
        if parsed.is_none() {
            self.errors
                .push(FieldError::new(name, format!("{name} must be {wanted}")));
        }
        parsed
    }

    /// The value is one or several names with commas between them. The result has each name once. It is empty if the
    /// parameter is absent.
    pub(crate) fn any_of<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        all: &[T],
        name_of: fn(T) -> &'static str,
    ) -> Vec<T> {
        if self.get(name).is_none() {
            return Vec::new();
        }
        let names: Vec<_> = all.iter().map(|value| name_of(*value)).collect();
        let wanted = format!("one or several, comma-separated, of {}", names.join(", "));
        let chosen = self.parse(name, &wanted, |text| {
            let mut chosen = Vec::new();
            for name in text.split(',') {
                let value = *all.iter().find(|value| name_of(**value) == name.trim())?;
                if !chosen.contains(&value) {
                    chosen.push(value);
                }
            }
            Some(chosen)
        });
        chosen.unwrap_or_default()
    }

    /// Whether the flag is set. `1` and the name alone set it.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let flag = self.parse(name, "0 or 1", |text| match text {
            "1" | "true" | "" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        });
        flag.unwrap_or(false)
    }

    /// `limit`: the most entries of a list. The default is 100.
    pub(crate) fn limit(&mut self) -> usize {
        let limit = self.parse("limit", "a whole number from 1 to 1000", |text| {
            text.parse().ok().filter(|n| (1..=1_000).contains(n))
        });
        limit.unwrap_or(100)
    }

    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid(self.errors))
        }
    }
}
