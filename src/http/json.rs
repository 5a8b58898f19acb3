//! JSON objects, written field by field: the answers that are asked for most. The bytes are those that serde_json would
//! write, for a quarter of the work, since names are known and need no escapes.

use serde_json::value::RawValue;

/// A field's name as it is written. It must need no escapes.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(crate) use name;

/// An object that is being written. Its fields have a [`name!`].
pub(crate) struct Object<'o>(&'o mut Vec<u8>);

/// What a field can hold.
pub(crate) trait Value {
    fn write(self, out: &mut Vec<u8>);
}

impl Object<'_> {
    /// Appends an object with these fields; there is at least one.
    pub(crate) fn write(out: &mut Vec<u8>, fields: impl FnOnce(&mut Object<'_>)) {
        let start = out.len();
        fields(&mut Object(out));
        // In place of the comma before the first name.
        out[start] = b'{';
        out.push(b'}');
    }

    // With the name at hand, the compiler copies it in a few moves.
    #[inline(always)]
    pub(crate) fn field(&mut self, name: &'static str, value: impl Value) {
        self.0.extend_from_slice(name.as_bytes());
        value.write(self.0);
    }

    /// A field that is left out where there is nothing to tell.
    #[inline]
    pub(crate) fn if_some(&mut self, name: &'static str, value: Option<impl Value>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// A text that needs no escapes.
    #[inline(always)]
    pub(crate) fn plain(&mut self, name: &'static str, text: &str) {
        self.0.extend_from_slice(name.as_bytes());
        quote(text, self.0);
    }

    pub(crate) fn object(&mut self, name: &'static str, fields: impl FnOnce(&mut Object<'_>)) {
        self.0.extend_from_slice(name.as_bytes());
        Object::write(self.0, fields);
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

impl Value for &str {
    fn write(self, out: &mut Vec<u8>) {
        let is_plain = |byte| byte >= b' ' && byte != b'"' && byte != b'\\';
        match self.bytes().all(is_plain) {
            true => quote(self, out),
            // Text that is written into memory cannot fail.
            false => drop(serde_json::to_writer(out, self)),
        }
    }
}

/// A text in two parts that need no escapes.
impl Value for [&str; 2] {
    fn write(self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self[0].as_bytes());
        out.extend_from_slice(self[1].as_bytes());
        out.push(b'"');
    }
}

impl Value for u64 {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
    }
}

impl Value for &RawValue {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.get().as_bytes());
    }
}

impl<V: Value> Value for Option<V> {
    #[inline]
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.write(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}

impl Value for bool {
    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(if self { b"true" } else { b"false" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn serde_json_writes_the_same(text: String, plain in "[ -~]{0,40}", number: Option<u64>, is_so: bool) {
            let raw = serde_json::value::to_raw_value(&text).expect("a text is JSON");
            let mut out = Vec::new();
            Object::write(&mut out, |object| {
                object.field(name!("text"), &*text);
                object.field(name!("plain"), &*plain);
                object.field(name!("number"), number);
                object.if_some(name!("known"), number);
                object.object(name!("inner"), |inner| {
                    inner.field(name!("raw"), &*raw);
                    inner.field(name!("isSo"), is_so);
                });
            });
            let mut want = serde_json::json!({ "text": text, "plain": plain, "number": number });
            if let Some(number) = number {
                want["known"] = number.into();
            }
            want["inner"] = serde_json::json!({ "raw": text, "isSo": is_so });
            proptest::prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).expect("JSON"), want);
            let mut own = Vec::new();
            (&*text).write(&mut own);
            proptest::prop_assert_eq!(own, serde_json::to_vec(&text).expect("JSON"));
        }
    }
}
