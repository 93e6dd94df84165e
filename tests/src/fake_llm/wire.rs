//! JSON with its keys in the order written, as the providers send it.

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};
use serde_json::Value;

/// A JSON value.
#[derive(Debug, Clone)]
pub enum Wire {
    /// Left out of the object it stands in.
    Absent,
    /// Anything without an order of keys.
    Value(Value),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(Vec<(&'static str, Self)>),
}

/// A [`Wire`] written as JSON is; an expression of more than one word stands in parentheses.
macro_rules! wire {
    (null) => { $crate::fake_llm::wire::Wire::Value(serde_json::Value::Null) };
    ({ $($key:literal : $value:tt),* $(,)? }) => {
        $crate::fake_llm::wire::Wire::Object(vec![$(($key, wire!($value))),*])
    };
    ([ $($value:tt),* $(,)? ]) => { $crate::fake_llm::wire::Wire::Array(vec![$(wire!($value)),*]) };
    (($value:expr)) => { $crate::fake_llm::wire::Wire::from($value) };
    ($value:expr) => { $crate::fake_llm::wire::Wire::from($value) };
}

impl Wire {
    /// As one line.
    pub fn line(&self) -> String {
        // Serialising to memory has no error to give; an empty text would fail every comparison.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Over several lines.
    pub fn pretty(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// An object with one more key.
    pub fn with(mut self, key: &'static str, value: impl Into<Self>) -> Self {
        if let Self::Object(fields) = &mut self {
            fields.push((key, value.into()));
        }
        self
    }
}

impl Serialize for Wire {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent => serializer.serialize_none(),
            Self::Value(value) => value.serialize(serializer),
            Self::Array(items) => items.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(None)?;
                for (key, value) in fields.iter().filter(|(_, value)| !matches!(value, Self::Absent)) {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

macro_rules! from_plain {
    ($($plain:ty),*) => {
        $(impl From<$plain> for Wire {
            fn from(plain: $plain) -> Self {
                Self::Value(Value::from(plain))
            }
        })*
    };
}

from_plain!(&str, String, u64, bool, Value);

impl From<&String> for Wire {
    fn from(text: &String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<Vec<Self>> for Wire {
    fn from(items: Vec<Self>) -> Self {
        Self::Array(items)
    }
}

impl<T: Into<Self>> From<Option<T>> for Wire {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, Into::into)
    }
}

pub(super) use wire;

#[cfg(test)]
mod tests {

    #[test]
    fn keys_keep_their_order_and_absent_ones_are_left_out() {
        let (name, none) = ("b", None::<u64>);
        let written = wire!({"z": 1, "a": name, "gone": none, "list": [1, null, {"y": (2 + 3)}], "n": null})
            .with("last", true);
        assert_eq!(written.line(), r#"{"z":1,"a":"b","list":[1,null,{"y":5}],"n":null,"last":true}"#);
    }
}
