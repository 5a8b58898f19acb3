//! A JSON body's fields, checked all at once: every bad one is named in the same answer.

use std::fmt::{self, Display};
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::field_error::FieldError;
use crate::http::{Problem, Request};
use crate::nesting::{MAX_DEPTH, depth};

/// More than any body has. Looking for doubles among ever more would cost ever more.
const MAX_FIELDS: usize = 100;

/// The fields not yet read, and the errors so far. A field that is `null` is absent.
pub(crate) struct Fields<'a> {
    left: Vec<(String, &'a RawValue)>,
    /// Put before field names in errors: `steps[2].`.
    prefix: String,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// The body's fields; none if there is no body.
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
        let value: &RawValue = serde_json::from_slice(body).map_err(not_json)?;
        if !value.get().starts_with('{') {
            let message = "The body must be a JSON object";
            return Err(Problem::new(400, "invalid_request", message));
        }
        fields.add(serde_json::from_str(value.get()).map_err(not_json)?);
        Ok(fields)
    }

    /// The fields of an object that stands on its own; none where there is none.
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

    /// Notes that `field` is wrong.
    pub(crate) fn fault(&mut self, field: &str, message: impl Into<String>) {
        let field = format!("{}{field}", self.prefix);
        self.errors.push(FieldError::new(field, message));
    }

    /// Notes what a check has found in the field `parent`.
    pub(crate) fn fault_all(&mut self, parent: &str, checked: Result<(), Vec<FieldError>>) {
        for error in checked.err().unwrap_or_default() {
            let FieldError { field, message } = error.under(parent);
            self.fault(&field, message);
        }
    }

    /// How many faults were noted so far.
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

    /// A text that must be there, and not be blank; else an empty one.
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

    /// An object, to the letter.
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

    /// Any value, to the letter.
    pub(crate) fn any(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take(name)
    }

    /// An array's elements; `None` if the field is absent or not an array.
    pub(crate) fn array(&mut self, name: &str) -> Option<Vec<&'a RawValue>> {
        serde_json::from_str(self.take(name)?.get()).ok()
    }

    /// The fields of an element of an array, with errors under its own name; what is wrong in
    /// it is handed back to [`adopt`](Self::adopt).
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

    /// Takes over the errors of an element.
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
    /// All that was wrong, unknown fields included.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        self.check().map_err(Problem::invalid)
    }

    /// As [`finish`](Self::finish), with the errors as they are.
    pub(crate) fn check(mut self) -> Result<(), Vec<FieldError>> {
        self.refuse_unknown();
        match self.errors.is_empty() {
            true => Ok(()),
            false => Err(self.errors),
        }
    }
}

fn not_json(error: serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let message = format!("The body is not valid JSON: see line {line}, column {column}");
    Problem::new(400, "invalid_json", message)
}

/// An object's pairs in order, doubles included, which a map would swallow.
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

/// The query's values, checked like a body's fields.
pub(crate) struct Query<'a> {
    pairs: &'a [(String, String)],
    errors: Vec<FieldError>,
}

impl<'a> Query<'a> {
    /// Unknown or repeated parameters are errors, which [`finish`](Self::finish) returns.
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

    /// A value that `parse` accepts; `wanted` says what it would.
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

    /// One or several names, comma-separated, each once in what is given back; none where the
    /// parameter is absent.
    pub(crate) fn any_of<T: Copy + PartialEq>(
        &mut self,
        name: &str,
        all: &[T],
        name_of: fn(T) -> &'static str,
    ) -> Vec<T> {
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

    /// Whether it is on: `1`, or the name alone.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let flag = self.parse(name, "0 or 1", |text| match text {
            "1" | "true" | "" => Some(true),
            "0" | "false" => Some(false),
            _ => None,
        });
        flag.unwrap_or(false)
    }

    /// `limit`: how many entries of a list, 100 if it does not say.
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
