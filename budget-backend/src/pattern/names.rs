//! The names under which a model goes. A caller may ask for one model by many: with a date, as a path, by an
//! ARN, by an alias of the price list. What is said of the model must meet all of them. Pure.

use percent_encoding::percent_decode_str;

use crate::pricing::find::without_date;

/// What Bedrock puts before a model that may run in more than one region.
const REGIONS: [&str; 9] = ["us.", "us-gov.", "eu.", "apac.", "global.", "jp.", "au.", "ca.", "sa."];

/// How often escapes are undone: a name in a path may have been escaped by two.
const MAX_DECODINGS: usize = 2;

/// The names of one model, each once, whatever its capitals; at most a few dozen. The one asked for comes
/// first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    names: Vec<String>,
    /// How many of them, from the first, are the model's own: nothing was taken off but a date, or the price
    /// list has it so.
    own: usize,
}

impl Names {
    /// Of a model that was asked for, and what the price list has it stand for: an alias's target, the row
    /// that prices it.
    ///
    /// Its own names are these and the same without a date. Further ones are each without escapes, from its
    /// last `/` on, and without the prefix of a region.
    #[must_use]
    pub fn of<'a>(asked: &'a str, stands_for: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names = Self { names: Vec::with_capacity(2), own: 0 };
        let given = std::iter::once(asked).chain(stands_for);
        for name in given {
            names.add(name);
            names.add(without_date(name).unwrap_or(name));
        }
        names.own = names.names.len();
        for number in 0..names.own {
            let Some(name) = names.names.get(number).cloned() else { break };
            names.add_parts(&name);
        }
        names
    }

    fn add(&mut self, name: &str) {
        if !name.is_empty() && !self.names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            self.names.push(name.to_owned());
        }
    }

    fn add_parts(&mut self, name: &str) {
        let mut decoded = name.to_owned();
        for _ in 0..=MAX_DECODINGS {
            let last = decoded.rsplit('/').next().unwrap_or_default();
            let everywhere = without_region(last);
            for part in [decoded.as_str(), last, everywhere] {
                self.add(part);
                self.add(without_date(part).unwrap_or(part));
            }
            let Some(plainer) = unescaped(&decoded) else { break };
            decoded = plainer;
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The model's own: as it was asked for, as the price list has it, and these without a date.
    pub fn own(&self) -> impl Iterator<Item = &str> {
        self.all().take(self.own)
    }

    /// As it was asked for.
    #[must_use]
    pub fn asked(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// The name without percent escapes; `None` when it has none that mean text.
fn unescaped(name: &str) -> Option<String> {
    let plain = name.contains('%').then(|| percent_decode_str(name).decode_utf8().ok()).flatten()?;
    (plain != name).then(|| plain.into_owned())
}

fn without_region(name: &str) -> &str {
    let region = REGIONS.iter().find_map(|region| {
        let (start, rest) = name.split_at_checked(region.len())?;
        (start.eq_ignore_ascii_case(region) && !rest.is_empty()).then_some(rest)
    });
    region.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Patterns;

    fn names<'a>(asked: &'a str, stands_for: &[&'a str]) -> Names {
        Names::of(asked, stands_for.iter().copied())
    }

    #[test]
    fn a_model_goes_by_every_name_it_may_be_asked_for_by() {
        let arn = "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-sonnet-4-5";
        for (asked, stands_for, expected) in [
            ("gpt-4o", vec!["gpt-4o"], vec!["gpt-4o"]),
            ("gpt-4o-2024-08-06", vec!["gpt-4o"], vec!["gpt-4o-2024-08-06", "gpt-4o"]),
            ("my-dep", vec!["gpt-4o-2024-11-20", "gpt-4o"], vec!["my-dep", "gpt-4o-2024-11-20", "gpt-4o"]),
            ("models/gemini-2.5-pro", vec![], vec!["models/gemini-2.5-pro", "gemini-2.5-pro"]),
            ("google/gemini-2.5-pro", vec![], vec!["google/gemini-2.5-pro", "gemini-2.5-pro"]),
            ("models%2Fgemini-2.5-pro", vec![], {
                vec!["models%2Fgemini-2.5-pro", "models/gemini-2.5-pro", "gemini-2.5-pro"]
            }),
            ("models%252Fgemini", vec![], {
                vec!["models%252Fgemini", "models%2Fgemini", "models/gemini", "gemini"]
            }),
            (arn, vec![], vec![arn, "anthropic.claude-sonnet-4-5"]),
            ("US.anthropic.claude", vec![], vec!["US.anthropic.claude", "anthropic.claude"]),
            ("apac.amazon.nova", vec![], vec!["apac.amazon.nova", "amazon.nova"]),
            ("GPT-4o", vec!["gpt-4o"], vec!["GPT-4o"]),
            ("us.", vec![], vec!["us."]),
            ("a/", vec![], vec!["a/"]),
            ("%ff", vec![], vec!["%ff"]),
        ] {
            let names = names(asked, &stands_for);
            assert_eq!(names.all().collect::<Vec<_>>(), expected, "{asked}");
            assert_eq!(names.asked(), asked);
        }
    }

    #[test]
    fn a_profile_s_arn_goes_by_the_model_without_its_region_also_when_it_is_escaped() {
        for arn in [
            "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-20250514",
            "arn%3Aaws%3Abedrock%3Aeu-west-1%3A1%3Ainference-profile%2Feu.anthropic.claude-sonnet-4-20250514",
        ] {
            let names = names(arn, &[]);
            for name in [
                "anthropic.claude-sonnet-4",
                "eu.anthropic.claude-sonnet-4",
                "anthropic.claude-sonnet-4-20250514",
            ] {
                assert!(names.all().any(|known| known == name), "{name}: {names:?}");
            }
        }
    }

    #[test]
    fn a_denial_meets_every_name_and_only_its_own_let_a_model_through() {
        let patterns = |name: &str| Patterns::new(vec![name.to_owned()]);
        for (asked, stands_for, pattern, meets, allows) in [
            ("gpt-4o", vec![], "gpt-4o", true, true),
            ("GPT-4O", vec![], "gpt-4o", true, true),
            ("gpt-4o-2024-08-06", vec![], "gpt-4o", true, true),
            ("my-dep", vec!["gpt-4o"], "gpt-4o", true, true),
            ("evil/gpt-4o", vec![], "gpt-4o", true, false),
            ("evil/gpt-4o-2024-08-06", vec![], "gpt-4o", true, false),
            ("evil%2Fgpt-4o", vec![], "gpt-4o", true, false),
            ("us.anthropic.claude", vec![], "anthropic.*", true, false),
            ("models/gemini-2.5-pro", vec!["gemini-2.5-pro"], "gemini-2.5-pro*", true, true),
            ("gpt-4o-mini", vec!["gpt-4o-mini"], "gpt-4o", false, false),
        ] {
            let names = names(asked, &stands_for);
            assert_eq!(patterns(pattern).meet(&names), meets, "{asked} {pattern}");
            assert_eq!(patterns(pattern).allow(&names), allows, "{asked} {pattern}");
        }
        assert!(Patterns::default().allow(&names("x", &[])) && !Patterns::default().meet(&names("x", &[])));
    }

    #[test]
    fn names_stay_few_however_long_the_one_asked_for_is() {
        let long = "a/%2525".repeat(36);
        assert!(names(&long, &[&long]).all().count() < 32);
    }
}
