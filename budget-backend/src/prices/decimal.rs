//! Decimal text to scaled integers, exactly; no float on the way.

/// Most digits of a mantissa: what a 128-bit integer surely holds.
const MAX_DIGITS: usize = 38;

/// Why a text is not a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not a decimal number such as `2.5e-06`.
    #[error("expected a decimal number such as 2.5e-06")]
    NotDecimal,
    /// Below zero.
    #[error("expected no negative number")]
    Negative,
    /// Beyond what fits.
    #[error("the number is too large")]
    TooLarge,
}

/// A scaled number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaled {
    /// The number times the power of ten, rounded up to a whole one.
    pub value: i64,
    /// Whether something was rounded away.
    pub rounded_up: bool,
}

/// A non-negative decimal (`12`, `0.5`, `2.5e-06`) times 10^`power`.
///
/// # Errors
/// [`DecimalError`].
pub fn scaled(text: &str, power: i32) -> Result<Scaled, DecimalError> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent_of(exponent)?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(DecimalError::NotDecimal);
    }
    let fraction = fraction.trim_end_matches('0');
    let significant = format!("{whole}{fraction}");
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Ok(Scaled { value: 0, rounded_up: false });
    }
    if negative {
        return Err(DecimalError::Negative);
    }
    if significant.len() > MAX_DIGITS {
        return Err(DecimalError::TooLarge);
    }
    let mantissa: u128 = significant.parse().map_err(|_| DecimalError::TooLarge)?;
    let decimals = i32::try_from(fraction.len()).map_err(|_| DecimalError::TooLarge)?;
    let shift = exponent.saturating_sub(decimals).saturating_add(power);
    let ten_to = |power: u32| 10_u128.checked_pow(power);
    let (value, rest) = if shift >= 0 {
        let factor = ten_to(shift.unsigned_abs()).ok_or(DecimalError::TooLarge)?;
        (mantissa.checked_mul(factor).ok_or(DecimalError::TooLarge)?, 0)
    } else {
        // Beyond that many digits nothing is left but the rounding.
        ten_to(shift.unsigned_abs()).map_or((0, 1), |divisor| (mantissa / divisor, mantissa % divisor))
    };
    let rounded_up = rest > 0;
    let value = i64::try_from(value + u128::from(rounded_up)).map_err(|_| DecimalError::TooLarge)?;
    Ok(Scaled { value, rounded_up })
}

fn exponent_of(text: &str) -> Result<i32, DecimalError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(DecimalError::NotDecimal);
    }
    text.strip_prefix('+').unwrap_or(text).parse().map_err(|_| DecimalError::NotDecimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_scale_exactly_and_say_when_they_don_t() {
        let exact = |value| Ok(Scaled { value, rounded_up: false });
        let up = |value| Ok(Scaled { value, rounded_up: true });
        for (text, expected) in [
            ("2.5e-06", exact(2_500_000_000)),
            ("2.5E-6", exact(2_500_000_000)),
            ("0.0000025", exact(2_500_000_000)),
            ("1.50e-07", exact(150_000_000)),
            ("0", exact(0)),
            ("0.0", exact(0)),
            ("-0.0", exact(0)),
            ("0e-400", exact(0)),
            ("1e-15", exact(1)),
            ("1", exact(1_000_000_000_000_000)),
            ("1e+2", exact(100_000_000_000_000_000)),
            ("9.999990000000002e-06", up(9_999_990_001)),
            ("1e-16", up(1)),
            ("1e-300", up(1)),
            ("-1e-9", Err(DecimalError::Negative)),
            ("9999e3", Err(DecimalError::TooLarge)),
            ("1e300", Err(DecimalError::TooLarge)),
            ("", Err(DecimalError::NotDecimal)),
            (".5", Err(DecimalError::NotDecimal)),
            ("5.", Err(DecimalError::NotDecimal)),
            ("1e", Err(DecimalError::NotDecimal)),
            ("1e-", Err(DecimalError::NotDecimal)),
            ("1e99999", Err(DecimalError::NotDecimal)),
            ("NaN", Err(DecimalError::NotDecimal)),
            ("Infinity", Err(DecimalError::NotDecimal)),
            ("0x1", Err(DecimalError::NotDecimal)),
            ("1_000", Err(DecimalError::NotDecimal)),
            ("+1", Err(DecimalError::NotDecimal)),
        ] {
            assert_eq!(scaled(text, 15), expected, "{text:?}");
        }
    }
}
