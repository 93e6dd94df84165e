//! Fields that are given twice in one object. A tree keeps the last of them, and whoever reads the text
//! may mean the first.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Mistake;
use super::fields::join;

/// A mistake for each field that stands in its object already. Text that is no JSON has none.
pub fn find(text: &str) -> Vec<Mistake> {
    let found = RefCell::new(Vec::new());
    let mut reader = serde_json::Deserializer::from_str(text);
    // Whether it is JSON is for others to say.
    let _ = Place { path: String::new(), found: &found }.deserialize(&mut reader);
    found.into_inner()
}

/// A value, read for its fields' names only.
struct Place<'f> {
    path: String,
    found: &'f RefCell<Vec<Mistake>>,
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = join(&self.path, &name);
            if names.contains(&name) {
                let problem = "expected once, got a second time".to_owned();
                self.found.borrow_mut().push(Mistake { path, problem });
                fields.next_value::<IgnoredAny>()?;
            } else {
                fields.next_value_seed(Place { path, found: self.found })?;
                names.insert(name);
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        while items
            .next_element_seed(Place { path: format!("{}[{index}]", self.path), found: self.found })?
            .is_some()
        {
            index = index.saturating_add(1);
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
