//! How deep JSON may be nested.

use serde_json::Value;

/// How deep what clients read may be nested. Many readers give up at 128, and would with it on the
/// list that it stands in.
pub(crate) const MAX_DEPTH: usize = 100;

/// How deep a valid JSON text is nested.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut quoted, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The value, where it is nested at most [`MAX_DEPTH`] deep. One that is nested deeper is taken apart
/// here: to write or to drop it would take a stack as deep as it is.
pub(crate) fn limited(value: Value) -> Option<Value> {
    if fits(&value, MAX_DEPTH) {
        return Some(value);
    }
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(members) => left.extend(members.into_iter().map(|(_, value)| value)),
            _ => {}
        }
    }
    None
}

/// Whether `value` has at most so many levels; it looks no deeper.
fn fits(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(|v| fits(v, levels - 1)),
        Value::Object(members) => levels > 0 && members.values().all(|v| fits(v, levels - 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        for (json, want) in [
            ("1", 0),
            ("{}", 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            (r#"{"[{":"\"[[","b":"\\"}"#, 1),
            (r#"["\\",["]"]]"#, 2),
        ] {
            assert_eq!(depth(json), want, "{json}");
        }
    }

    #[test]
    fn a_value_is_limited_as_its_text_is() {
        let nested = |levels: usize| (0..levels).fold(Value::Null, |v, _| Value::Array(vec![v]));
        let text = nested(MAX_DEPTH).to_string();
        assert_eq!(depth(&text), MAX_DEPTH);
        assert_eq!(limited(nested(MAX_DEPTH)), Some(nested(MAX_DEPTH)));
        assert_eq!(limited(nested(MAX_DEPTH + 1)), None);
        // So deep that the stack of a recursion would overflow.
        assert_eq!(limited(nested(1_000_000)), None);
        let member = |v, _| Value::Object([("a".to_owned(), v)].into_iter().collect());
        assert_eq!(limited((0..1_000_000).fold(Value::Null, member)), None);
    }
}
