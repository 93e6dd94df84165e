//! Header values with parameters: `form-data; name="file"; filename="a.mp3"`. Parsers differ in what they
//! make of odd ones, so that only those are read that all read the same way.

/// A value and its parameters; the names in lower case.
pub struct Value<'a> {
    /// What stands before the parameters.
    pub kind: &'a str,
    parameters: Vec<(String, &'a str)>,
}

impl<'a> Value<'a> {
    /// Reads a value. Nothing when it is odd: a name given twice, an escape before a quote, something
    /// behind a quoted text.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (kind, mut rest) = text.split_at_checked(text.find(';').unwrap_or(text.len()))?;
        let mut parameters: Vec<(String, &str)> = Vec::new();
        while let Some(after) = rest.strip_prefix(';') {
            let (name, value) = after.split_once('=')?;
            let name = name.trim().to_ascii_lowercase();
            let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte));
            if name.is_empty() || !is_token || parameters.iter().any(|(known, _)| *known == name) {
                return None;
            }
            let (value, behind) = match value.trim_start().strip_prefix('"') {
                Some(quoted) => quoted.split_once('"').filter(|(inner, _)| !inner.ends_with('\\'))?,
                None => value.split_at_checked(value.find(';').unwrap_or(value.len()))?,
            };
            parameters.push((name, value));
            rest = behind.trim_start();
        }
        let is_sound = rest.is_empty() && !parameters.iter().any(|(_, value)| value.contains('"'));
        is_sound.then(|| Self { kind: kind.trim(), parameters })
    }

    /// A parameter. One without quotes has no space around it.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.trim())
    }

    /// A parameter as it stands, with spaces around it.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

/// What the head of a form's part says.
pub struct Part<'a> {
    /// The field.
    pub name: &'a str,
    /// It holds a file.
    pub is_file: bool,
    /// Its value may be meant otherwise than its bytes read: encoded, or in another character set.
    pub is_encoded: bool,
}

impl<'a> Part<'a> {
    /// Reads a head, lines between CRLFs. Nothing when it is odd.
    pub fn parse(head: &'a str) -> Option<Self> {
        let (mut disposition, mut is_encoded) = (None, false);
        for line in head.split("\r\n") {
            let (name, value) = line.split_once(':')?;
            let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            if name.is_empty() || !is_token || value.contains(|sign: char| sign.is_control() && sign != '\t')
            {
                return None;
            }
            if name.eq_ignore_ascii_case("content-disposition") {
                if disposition.is_some() {
                    return None;
                }
                disposition = Some(Value::parse(value)?);
            } else if name.eq_ignore_ascii_case("content-transfer-encoding") {
                let known = ["7bit", "8bit", "binary"];
                is_encoded |= !known.iter().any(|known| known.eq_ignore_ascii_case(value.trim()));
            } else if name.eq_ignore_ascii_case("content-type") {
                let charset = Value::parse(value).and_then(|value| value.get("charset"));
                is_encoded |= charset.is_some_and(|name| {
                    !["utf-8", "utf8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(name))
                });
            }
        }
        let disposition = disposition.filter(|value| value.kind.eq_ignore_ascii_case("form-data"))?;
        if disposition.get("name*").is_some() {
            return None;
        }
        let is_file = ["filename", "filename*"].iter().any(|name| disposition.get(name).is_some());
        let name = disposition.raw("name").filter(|name| !name.contains(['\\', '%']))?;
        Some(Self { name, is_file, is_encoded })
    }
}
