//! Listings in parts. A cursor is opaque: whoever asks hands back what the last part gave.

use serde::Deserialize;
use utoipa::IntoParams;

use super::ApiError;

/// Rows of one part, when nothing else is asked.
const ROWS: i64 = 200;

/// Most rows of one part.
pub const MAX_ROWS: i64 = 1_000;

/// What every cursor begins with, so that a number is not taken for one.
const PREFIX: &str = "n";

/// Which part of a listing.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// The `next_cursor` of the part before.
    pub(super) cursor: Option<String>,
    /// Most rows in the answer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

impl Page {
    /// The number after which to go on.
    pub fn after(&self) -> Result<i64, ApiError> {
        number(self.cursor.as_deref()).map(Option::unwrap_or_default)
    }

    /// How many rows.
    pub fn limit(&self) -> Result<i64, ApiError> {
        limit(self.limit)
    }
}

/// The number that a cursor stands for.
pub fn number(cursor: Option<&str>) -> Result<Option<i64>, ApiError> {
    let wrong = || ApiError::invalid_parameter("cursor: expected the next_cursor of an earlier answer");
    let read = |cursor: &str| cursor.strip_prefix(PREFIX)?.parse().ok().filter(|number| *number >= 0_i64);
    cursor.map(|cursor| read(cursor).ok_or_else(wrong)).transpose()
}

/// The cursor that stands for a number.
pub fn cursor(number: i64) -> String {
    format!("{PREFIX}{number}")
}

/// How many rows are asked for.
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    let limit = asked.unwrap_or(ROWS);
    if (1..=MAX_ROWS).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::invalid_parameter(format!("limit: expected 1 to {MAX_ROWS}, got {limit}")))
    }
}

/// Of `limit` and one more rows the first `limit`, and the cursor if there is one more.
pub fn cut<T>(mut rows: Vec<T>, limit: i64, number: impl Fn(&T) -> i64) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if rows.len() <= limit {
        return (rows, None);
    }
    rows.truncate(limit);
    let next = rows.last().map(|row| cursor(number(row)));
    (rows, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_on_and_nothing_else_does() {
        let (rows, next) = cut(vec![3_i64, 5, 9], 2, |row| *row);
        assert_eq!((rows, next.as_deref()), (vec![3, 5], Some("n5")));
        assert_eq!(number(next.as_deref()).unwrap(), Some(5));
        assert_eq!(cut(vec![3_i64, 5], 2, |row| *row), (vec![3, 5], None));
        for wrong in ["5", "n-5", "nx", "", "n9223372036854775808"] {
            assert!(number(Some(wrong)).is_err(), "{wrong}");
        }
        assert!(
            limit(Some(0)).is_err() && limit(Some(MAX_ROWS)).is_ok() && limit(Some(MAX_ROWS + 1)).is_err()
        );
    }
}
