//! What was used in a month, from the daily rollup alone: its size depends on the number of payers and
//! models and not on the number of calls.

use jiff::civil::Date;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use crate::aggregate::sum_of_latency_counts;

/// Most groups one report gives.
pub const MAX_GROUPS: usize = 10_000;

/// A report may take longer than a check.
const LIMITS: &str = "set local statement_timeout = '10s'";

/// What a report is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// One group: the org.
    Org,
    /// Teams.
    Team,
    /// Users of teams.
    User,
    /// Models of providers.
    Model,
    /// Providers.
    Provider,
    /// APIs.
    Api,
    /// UTC days.
    Day,
}

impl By {
    /// The groupings that can be asked for.
    pub const NAMES: &str = "team, user, model, provider, api, day";

    /// The grouping of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "team" => Self::Team,
            "user" => Self::User,
            "model" => Self::Model,
            "provider" => Self::Provider,
            "api" => Self::Api,
            "day" => Self::Day,
            _ => return None,
        })
    }

    /// The columns that name a group.
    const fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Org => &[],
            Self::Team => &["team"],
            Self::User => &["team", "user_name"],
            Self::Model => &["provider", "model"],
            Self::Provider => &["provider"],
            Self::Api => &["api"],
            Self::Day => &["day"],
        }
    }
}

/// Sums over some calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Calls.
    pub requests: i64,
    /// Of these, charged from an estimate.
    pub estimated_requests: i64,
    /// Input neither read from nor written to a cache, tokens. No token is in two classes.
    pub input_tokens: i64,
    /// Input read from the provider's cache.
    pub cached_input_tokens: i64,
    /// Input written to it for five minutes.
    pub cache_write_5m_tokens: i64,
    /// Input written to it for an hour.
    pub cache_write_1h_tokens: i64,
    /// Output the caller sees.
    pub output_tokens: i64,
    /// Output spent on reasoning.
    pub reasoning_tokens: i64,
    /// Audio in the input.
    pub audio_input_tokens: i64,
    /// Audio in the output.
    pub audio_output_tokens: i64,
    /// Images in the input.
    pub image_input_tokens: i64,
    /// Images in the output.
    pub image_output_tokens: i64,
    /// Cost, nano-USD.
    pub cost_nanousd: i64,
    /// Calls by duration; see [`crate::histogram::LATENCY_MS`].
    pub latency_counts: Vec<i64>,
}

impl Sums {
    /// Adds another group's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.requests, other.requests),
            (&mut self.estimated_requests, other.estimated_requests),
            (&mut self.input_tokens, other.input_tokens),
            (&mut self.cached_input_tokens, other.cached_input_tokens),
            (&mut self.cache_write_5m_tokens, other.cache_write_5m_tokens),
            (&mut self.cache_write_1h_tokens, other.cache_write_1h_tokens),
            (&mut self.output_tokens, other.output_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.audio_input_tokens, other.audio_input_tokens),
            (&mut self.audio_output_tokens, other.audio_output_tokens),
            (&mut self.image_input_tokens, other.image_input_tokens),
            (&mut self.image_output_tokens, other.image_output_tokens),
            (&mut self.cost_nanousd, other.cost_nanousd),
        ] {
            *sum = sum.saturating_add(more);
        }
        if self.latency_counts.len() < other.latency_counts.len() {
            self.latency_counts.resize(other.latency_counts.len(), 0);
        }
        for (sum, more) in self.latency_counts.iter_mut().zip(&other.latency_counts) {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// One group of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The group's names: column and value.
    pub names: Vec<(&'static str, String)>,
    /// Its sums.
    pub sums: Sums,
}

/// The groups of an org's days from `first` to before `next`, by name; one more than [`MAX_GROUPS`]
/// when there are more.
///
/// # Errors
/// The database's.
pub async fn usage(pool: &PgPool, org: &str, first: Date, next: Date, by: By) -> sqlx::Result<Vec<Group>> {
    let names: String =
        by.columns().iter().map(|column| format!("{column}::text as {column}_name, ")).collect();
    let (group, order) = match by.columns().join(", ") {
        columns if columns.is_empty() => (String::new(), String::new()),
        columns => (format!("group by {columns}"), format!("order by {columns}")),
    };
    let sql = format!(
        "select {names} sum(requests)::bigint as requests, sum(estimated_requests)::bigint as estimated_requests,
                sum(input_tokens)::bigint as input_tokens, sum(cached_input_tokens)::bigint as cached_input_tokens,
                sum(cache_write_5m_tokens)::bigint as cache_write_5m_tokens,
                sum(cache_write_1h_tokens)::bigint as cache_write_1h_tokens,
                sum(output_tokens)::bigint as output_tokens, sum(reasoning_tokens)::bigint as reasoning_tokens,
                sum(audio_input_tokens)::bigint as audio_input_tokens, sum(audio_output_tokens)::bigint as audio_output_tokens,
                sum(image_input_tokens)::bigint as image_input_tokens, sum(image_output_tokens)::bigint as image_output_tokens,
                sum(cost_nanousd)::bigint as cost_nanousd, {} as latency_counts
           from cost_daily_summary
          where org = $1 and day >= $2::text::date and day < $3::text::date
          {group} having count(*) > 0 {order} limit {}",
        sum_of_latency_counts(),
        MAX_GROUPS.saturating_add(1),
    );
    let mut transaction = pool.begin().await?;
    sqlx::query(LIMITS).execute(&mut *transaction).await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(org)
        .bind(first.to_string())
        .bind(next.to_string())
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    rows.iter().map(|row| group_of(row, by)).collect()
}

fn group_of(row: &PgRow, by: By) -> sqlx::Result<Group> {
    let name = |column: &&'static str| Ok((*column, row.try_get(format!("{column}_name").as_str())?));
    Ok(Group {
        names: by.columns().iter().map(name).collect::<sqlx::Result<_>>()?,
        sums: Sums {
            requests: row.try_get("requests")?,
            estimated_requests: row.try_get("estimated_requests")?,
            input_tokens: row.try_get("input_tokens")?,
            cached_input_tokens: row.try_get("cached_input_tokens")?,
            cache_write_5m_tokens: row.try_get("cache_write_5m_tokens")?,
            cache_write_1h_tokens: row.try_get("cache_write_1h_tokens")?,
            output_tokens: row.try_get("output_tokens")?,
            reasoning_tokens: row.try_get("reasoning_tokens")?,
            audio_input_tokens: row.try_get("audio_input_tokens")?,
            audio_output_tokens: row.try_get("audio_output_tokens")?,
            image_input_tokens: row.try_get("image_input_tokens")?,
            image_output_tokens: row.try_get("image_output_tokens")?,
            cost_nanousd: row.try_get("cost_nanousd")?,
            latency_counts: row.try_get("latency_counts")?,
        },
    })
}
