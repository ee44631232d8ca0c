//! JSON whose keys may be written in capitals or not: `detachKeys` is `DetachKeys`.
//!
//! Docker's engine reads bodies so, and there are clients that rely on it. What a struct calls its fields, it tells when it is read;
//! a key that is none of them, but is one but for its letters' case, is read as that one. And what is `null` is as if it were
//! not there: nothing, zero, an empty text, list or map.

use crate::error::ApiError;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Map, Value};

/// Reads JSON text.
///
/// # Errors
/// As [`serde_json::from_slice`].
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    from_value(serde_json::from_slice(bytes)?)
}

/// What is wrong with a body, in the words that Docker's clients and tests look for.
pub(crate) fn refused(bytes: &[u8], error: &Error) -> ApiError {
    let found = || {
        let line = bytes.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
        let at = line.get(error.column().checked_sub(1)?..)?;
        String::from_utf8_lossy(at).chars().next()
    };
    let said = error.to_string();
    let looking =
        |place: &str| found().map(|found| format!("invalid character '{found}' looking for beginning of {place}"));
    let words = match said.split(" at line ").next() {
        _ if error.is_eof() => Some("unexpected EOF".to_owned()),
        Some("key must be a string") => looking("object key string"),
        Some("expected value" | "expected ident") => looking("value"),
        Some("trailing characters") => Some("unexpected content after JSON".to_owned()),
        _ => None,
    };
    ApiError::invalid(format!("invalid JSON: {}", words.unwrap_or(said)))
}

/// Reads a value.
///
/// # Errors
/// As [`serde_json::from_value`].
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, Error> {
    T::deserialize(Fold(value))
}

/// The value of a field, whatever the case of its letters.
pub(crate) fn field<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let map = value.as_object()?;
    map.get(name).or_else(|| map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

struct Fold(Value);

impl Fold {
    /// This, or what stands for `null` where a value of one kind is asked for.
    fn or(self, nothing: impl FnOnce() -> Value) -> Self {
        if self.0.is_null() { Self(nothing()) } else { self }
    }
}

macro_rules! or_nothing {
    ($($name:ident $nothing:expr;)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.or(|| $nothing).deserialize_any(visitor)
        })*
    };
}

impl<'de> IntoDeserializer<'de, Error> for Fold {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The keys as the struct has them. Where both ways of writing are there, its own counts.
fn folded(map: Map<String, Value>, fields: &'static [&'static str]) -> Map<String, Value> {
    let (known, other): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| fields.contains(&key.as_str()));
    let mut known: Map<_, _> = known.into_iter().collect();
    for (key, value) in other {
        let name = fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
        known.entry(name.map_or(key, |name| (*name).to_owned())).or_insert(value);
    }
    known
}

impl<'de> Deserializer<'de> for Fold {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(map) => {
                let entries = map.into_iter().map(|(key, value)| (key, Self(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.into_iter().map(Self))),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Object(map) => Self(Value::Object(folded(map, fields))).deserialize_any(visitor),
            other => Self(other).deserialize_map(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(Self(value)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.or(|| Value::String(String::new())).0.deserialize_enum(name, variants, visitor)
    }

    or_nothing! {
        deserialize_bool Value::Bool(false);
        deserialize_f64 Value::from(0.0);
        deserialize_i32 Value::from(0);
        deserialize_i64 Value::from(0);
        deserialize_map Value::Object(Map::new());
        deserialize_seq Value::Array(Vec::new());
        deserialize_str Value::String(String::new());
        deserialize_string Value::String(String::new());
        deserialize_u16 Value::from(0);
        deserialize_u32 Value::from(0);
        deserialize_u64 Value::from(0);
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use docker_wire::models::{ContainerCreateBody, ExecConfig};
    use serde_json::json;

    #[test]
    fn keys_are_read_in_any_case() {
        let exec: ExecConfig = from_value(json!({ "cmd": ["true"], "detachKeys": "a", "TTY": true })).unwrap();
        assert_eq!((exec.cmd.unwrap().len(), exec.detach_keys.unwrap().as_str(), exec.tty), (1, "a", Some(true)));
        let text = br#"{"image":"x","hostconfig":{"binds":["/a:/b"],"RestartPolicy":{"name":"always"},"portBindings":{"80/tcp":[{"hostPort":"8080"}]}},"Labels":{"Image":"y","image":"z"}}"#;
        let body: ContainerCreateBody = from_slice(text).unwrap();
        let host = body.host_config.unwrap();
        assert_eq!((body.image.unwrap().as_str(), host.binds.unwrap()[0].as_str()), ("x", "/a:/b"));
        assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "always");
        let ports = host.port_bindings.unwrap();
        assert_eq!(ports["80/tcp"].as_ref().unwrap()[0].host_port.as_deref(), Some("8080"));
        // what is a map and no struct keeps its keys
        assert_eq!(body.labels.unwrap().len(), 2);
    }

    #[test]
    fn refusals_say_what_was_found() {
        let check = |text: &str, words: &str| {
            let error = from_slice::<ExecConfig>(text.as_bytes()).unwrap_err();
            assert_eq!(refused(text.as_bytes(), &error).message, format!("invalid JSON: {words}"), "{text}");
        };
        check("{invalid json", "invalid character 'i' looking for beginning of object key string");
        check("{\n \"Cmd\": ü}", "invalid character 'ü' looking for beginning of value");
        check("{} {}", "unexpected content after JSON");
        check("{\"Cmd\": [", "unexpected EOF");
    }

    #[test]
    fn the_exact_key_counts() {
        let exec: ExecConfig = from_value(json!({ "tty": true, "Tty": false, "TTY": true })).unwrap();
        assert_eq!(exec.tty, Some(false));
        assert_eq!(field(&json!({ "macaddress": "x" }), "MacAddress"), Some(&json!("x")));
        assert_eq!(field(&json!({ "macaddress": "x", "MacAddress": "y" }), "MacAddress"), Some(&json!("y")));
    }

    #[test]
    fn null_is_as_if_it_were_not_there() {
        let body: ContainerCreateBody = from_value(json!({
            "Image": null, "Env": null, "Tty": null, "Labels": { "a": null }, "ExposedPorts": { "80/tcp": null },
            "HostConfig": { "Memory": null, "Binds": [null], "RestartPolicy": { "Name": null, "MaximumRetryCount": null } },
        }))
        .unwrap();
        assert_eq!((body.image, body.env, body.tty), (None, None, None));
        assert_eq!(body.labels.unwrap()["a"], "");
        assert_eq!(body.host_config.unwrap().binds.unwrap(), [""]);
        let exec: ExecConfig = from_value(Value::Null).unwrap();
        assert_eq!(exec.cmd, None);
    }

    #[test]
    fn wrong_types_are_refused() {
        for wrong in [json!({ "cmd": 5 }), json!([]), json!("x"), json!({ "Tty": "yes" })] {
            assert!(from_value::<ExecConfig>(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
