//! Nano-USD and its decimal text.

use std::fmt;

const NANOUSD_PER_USD: u64 = 1_000_000_000;

/// Formats nano-USD as decimal USD with at least two and at most nine decimals, exactly.
///
/// `1_500_000_000` is `"1.50"`, `1` is `"0.000000001"`, negative amounts (corrections) carry a `-`.
#[must_use]
pub fn format_usd(nanousd: i64) -> String {
    let sign = if nanousd < 0 { "-" } else { "" };
    let absolute = nanousd.unsigned_abs();
    let whole = absolute / NANOUSD_PER_USD;
    let fraction = format!("{:09}", absolute % NANOUSD_PER_USD);
    let significant = fraction.trim_end_matches('0').len().max(2);
    let decimals: String = fraction.chars().take(significant).collect();
    format!("{sign}{whole}.{decimals}")
}

/// Why a text is not an amount in USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParseUsdError {
    /// Not of the form `12` or `12.345`.
    NotDecimal,
    /// More than nine decimals: a fraction of a nano-USD.
    TooFine,
    /// Beyond what an `i64` of nano-USD holds (about 9.2 billion USD).
    TooLarge,
}

impl fmt::Display for ParseUsdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => {
                "expected a decimal amount in USD such as \"12.50\", without sign, exponent or separators"
            }
            Self::TooFine => "expected at most nine decimals (one nano-USD)",
            Self::TooLarge => "expected at most 9223372036.854775807 USD",
        })
    }
}

impl std::error::Error for ParseUsdError {}

/// Parses a non-negative decimal amount in USD (`"12"`, `"12.5"`, `"0.000000001"`) to nano-USD.
///
/// # Errors
/// [`ParseUsdError`] for anything else; no rounding, no float on the way.
pub fn parse_usd(text: &str) -> Result<i64, ParseUsdError> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(ParseUsdError::NotDecimal),
        None => (text, ""),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return Err(ParseUsdError::NotDecimal);
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > 9 {
        return Err(ParseUsdError::TooFine);
    }
    let nanos: i64 = format!("{significant:0<9}").parse().map_err(|_| ParseUsdError::NotDecimal)?;
    let whole: i64 = whole.parse().map_err(|_| ParseUsdError::TooLarge)?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|amount| amount.checked_add(nanos))
        .ok_or(ParseUsdError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_exactly() {
        for (nanousd, text) in [
            (0, "0.00"),
            (1, "0.000000001"),
            (10_000_000, "0.01"),
            (1_500_000_000, "1.50"),
            (1_234_500_000, "1.2345"),
            (-2_000_000_001, "-2.000000001"),
            (i64::MAX, "9223372036.854775807"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            assert_eq!(format_usd(nanousd), text);
        }
    }

    #[test]
    fn parses_exactly_or_says_why() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("12", Ok(12_000_000_000)),
            ("12.5", Ok(12_500_000_000)),
            ("0.000000001", Ok(1)),
            ("1.5000000000000", Ok(1_500_000_000)),
            ("9223372036.854775807", Ok(i64::MAX)),
            ("9223372036.854775808", Err(ParseUsdError::TooLarge)),
            ("99999999999999999999", Err(ParseUsdError::TooLarge)),
            ("0.0000000001", Err(ParseUsdError::TooFine)),
            ("", Err(ParseUsdError::NotDecimal)),
            (".5", Err(ParseUsdError::NotDecimal)),
            ("5.", Err(ParseUsdError::NotDecimal)),
            ("-5", Err(ParseUsdError::NotDecimal)),
            ("+5", Err(ParseUsdError::NotDecimal)),
            ("1e3", Err(ParseUsdError::NotDecimal)),
            ("1,000", Err(ParseUsdError::NotDecimal)),
            ("１", Err(ParseUsdError::NotDecimal)),
        ] {
            assert_eq!(parse_usd(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_formatted_parses_back() {
        for nanousd in [0, 1, 9, 10, 999_999_999, 1_000_000_001, i64::MAX] {
            assert_eq!(parse_usd(&format_usd(nanousd)), Ok(nanousd));
        }
    }
}
