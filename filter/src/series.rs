//! Names of counters with labels whose values come from outside. The proxy never frees a counter, so there
//! are only so many; what comes beyond counts under `other`.

use std::cell::RefCell;
use std::rc::Rc;

/// Longest value of a label, bytes.
const MAX_LABEL_BYTES: usize = 64;

/// What takes the place of a value that doesn't get a counter of its own.
const OTHER: &str = "other";

/// A counter: its full name, and its id if the proxy would define it.
type Known = (String, Option<u32>);

/// The counters of one worker, in the order of their full names.
#[derive(Debug, Clone, Default)]
pub struct Series(Rc<RefCell<Vec<Known>>>);

impl Series {
    /// The counter `name` with these labels, if it may have them, else with `other` in the places of the
    /// values that `is_open` marks. `define` makes it the first time. `max_series` bounds how many there are.
    pub fn counter(
        &self,
        max_series: usize,
        name: &str,
        labels: &[(&str, &str, bool)],
        define: impl FnOnce(&str) -> Option<u32>,
    ) -> Option<u32> {
        let mut full = full_name(name, labels, false);
        let mut known = self.0.borrow_mut();
        let mut place = find(&known, &full);
        if place.is_err() && known.len() >= max_series {
            full = full_name(name, labels, true);
            place = find(&known, &full);
        }
        match place {
            Ok(at) => known.get(at).and_then(|(_, id)| *id),
            Err(at) => {
                let id = define(&full);
                known.insert(at, (full, id));
                id
            }
        }
    }
}

fn find(known: &[Known], full: &str) -> Result<usize, usize> {
    known.binary_search_by(|(name, _)| name.as_str().cmp(full))
}

fn full_name(name: &str, labels: &[(&str, &str, bool)], only_other: bool) -> String {
    let mut full = name.to_owned();
    for (label, value, is_open) in labels {
        let value = if only_other && *is_open { OTHER.to_owned() } else { plain(value) };
        full.push_str(&format!(";{label}={value};"));
    }
    full
}

/// A value that neither the proxy nor what reads its statistics takes apart.
fn plain(value: &str) -> String {
    let is_plain = |byte: &char| byte.is_ascii_alphanumeric() || "-_.:/@".contains(*byte);
    value.chars().take(MAX_LABEL_BYTES).map(|byte| if is_plain(&byte) { byte } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn there_are_only_so_many() {
        let series = Series::default();
        let mut defined = Vec::new();
        let mut count = |model: &str, class: &str| {
            let labels = [("model", model, true), ("class", class, false)];
            series.counter(3, "t", &labels, |name| {
                defined.push(name.to_owned());
                u32::try_from(defined.len()).ok()
            })
        };
        assert_eq!(count("a", "input"), Some(1));
        assert_eq!(count("a", "output"), Some(2));
        assert_eq!(count("b", "input"), Some(3));
        assert_eq!(count("a", "input"), Some(1));
        for model in ["c", "d", "e"] {
            assert_eq!(count(model, "input"), Some(4), "{model}");
            assert_eq!(count(model, "output"), Some(5), "{model}");
        }
        assert_eq!(count("b", "input"), Some(3));
        assert_eq!(
            defined,
            [
                "t;model=a;;class=input;",
                "t;model=a;;class=output;",
                "t;model=b;;class=input;",
                "t;model=other;;class=input;",
                "t;model=other;;class=output;",
            ]
        );
    }

    #[test]
    fn no_value_breaks_out_of_its_label() {
        let long = "x".repeat(200);
        for (value, expected) in [
            ("gpt-4.1:v1/x@y", "gpt-4.1:v1/x@y"),
            ("a;b=c d\n\u{e4}", "a_b_c_d__"),
            ("", ""),
            (long.as_str(), &"x".repeat(64)),
        ] {
            assert_eq!(plain(value), expected, "{value}");
        }
    }
}
