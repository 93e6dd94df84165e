//! Reports of usage, from the rollups alone.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgPool, Postgres, QueryBuilder, Row};

use crate::aggregate::{SUMS, sum_of_latency_counts};
use crate::report::{Column, Group, Order, Question, Report, Source, Sums};

/// A report may take longer than a check; compiling its many small sums would take longer than they do.
const LIMITS: [&str; 2] = ["set local statement_timeout = '10s'", "set local jit = off"];

/// Every org that spent anything, one after another along the key: orgs are few and rows many.
const ORGS: &str = "with recursive orgs as (
    (select org from cost_daily_summary order by org limit 1)
    union all
    select (select s.org from cost_daily_summary s where s.org > o.org order by s.org limit 1)
      from orgs o where o.org is not null), ";

/// Makes a report.
///
/// # Errors
/// The database's; a time-out after ten seconds.
pub async fn report(pool: &PgPool, question: &Question) -> sqlx::Result<Report> {
    let mut transaction = pool.begin().await?;
    for limit in LIMITS {
        sqlx::query(limit).execute(&mut *transaction).await?;
    }
    let mut built = statement(question, false);
    let query: Query<'_, Postgres, PgArguments> = built.build().persistent(false);
    let rows = query.fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    let mut report = Report { total: Sums::default(), groups: Vec::new(), more: false };
    for row in &rows {
        if row.try_get("is_total")? {
            report.total = sums(row)?;
        } else {
            let names = (0..question.columns.len()).map(|at| row.try_get(format!("k{at}").as_str()));
            report.groups.push(Group { names: names.collect::<sqlx::Result<_>>()?, sums: sums(row)? });
        }
    }
    report.more = report.groups.len() > question.limit;
    report.groups.truncate(question.limit);
    Ok(report)
}

/// How the database would make a report, as JSON.
///
/// # Errors
/// The database's.
pub async fn plan(pool: &PgPool, question: &Question) -> sqlx::Result<serde_json::Value> {
    let mut built = statement(question, true);
    built.build_query_scalar().persistent(false).fetch_one(pool).await
}

/// Groups as they are stored (`g`), with their names as text (`f`), and of these a part and the sum of
/// all.
fn statement(question: &Question, explained: bool) -> QueryBuilder<Postgres> {
    let mut sql = QueryBuilder::new(if explained { "explain (format json) " } else { "" });
    sql.push(if question.filter.org.is_none() { ORGS } else { "with " });
    stored_groups(&mut sql, question);
    named_groups(&mut sql, question);
    let keys = (0..question.columns.len()).map(|at| format!("k{at}")).collect::<Vec<_>>();
    let key_list = |before: &str| keys.iter().map(|key| format!("{before}{key}, ")).collect::<String>();
    let nulls = keys.iter().map(|_| "null, ").collect::<String>();
    let measures = SUMS.join(", ");
    let order = match (question.order, keys.is_empty()) {
        (_, true) => String::new(),
        (Order::Name, _) => format!("order by {}", keys.join(", ")),
        (Order::Cost, _) => format!("order by cost_nanousd desc, {}", keys.join(", ")),
    };
    if !keys.is_empty() {
        sql.push(format!("(select false as is_total, {}{measures}, latency_counts from f ", key_list("")));
        after(&mut sql, question, &keys);
        sql.push(format!("{order} limit "));
        sql.push_bind(i64::try_from(question.limit.saturating_add(1)).unwrap_or(i64::MAX));
        sql.push(") union all ");
    }
    sql.push(format!(
        "select true as is_total, {nulls}{}, {} as latency_counts from f",
        SUMS.map(|column| format!("coalesce(sum({column}), 0)::bigint as {column}")).join(", "),
        match question.source() {
            Source::Days => sum_of_latency_counts(),
            Source::Hours => "array[]::bigint[]".to_owned(),
        }
    ));
    sql
}

/// `g`: sums of the rollup's rows by what they are stored under.
fn stored_groups(sql: &mut QueryBuilder<Postgres>, question: &Question) {
    let columns: Vec<&str> = stored_columns(question);
    let list = columns.iter().map(|column| format!("{column}, ")).collect::<String>();
    let (table, latency) = match question.source() {
        Source::Days => ("cost_daily_summary", sum_of_latency_counts()),
        Source::Hours => ("usage_hourly", "array[]::bigint[]".to_owned()),
    };
    sql.push(format!(
        "g as materialized (select {list}{}, {latency} as latency_counts from {table} where ",
        SUMS.map(|column| format!("sum({column})::bigint as {column}")).join(", ")
    ));
    conditions(sql, question);
    match columns.join(", ") {
        grouped if grouped.is_empty() => sql.push(" having count(*) > 0"),
        grouped => sql.push(format!(" group by {grouped}")),
    };
    sql.push("), ");
}

/// The rollup's columns that the question's need, each once.
fn stored_columns(question: &Question) -> Vec<&'static str> {
    let mut stored = Vec::new();
    for column in &question.columns {
        let name = match column {
            Column::Org => "org",
            Column::Team => "team",
            Column::User => "user_name",
            Column::Provider => "provider",
            Column::Model => "model",
            Column::Api => "api",
            Column::Hour => "hour",
            Column::Day if question.source() == Source::Days => "day",
            Column::Day => "hour",
            Column::Tag(_) => "tags",
        };
        if !stored.contains(&name) {
            stored.push(name);
        }
    }
    stored
}

/// `f`: the same by names as text, which come in the order of what they name.
fn named_groups(sql: &mut QueryBuilder<Postgres>, question: &Question) {
    sql.push("f as (select ");
    for (at, column) in question.columns.iter().enumerate() {
        match column {
            Column::Org => sql.push("org"),
            Column::Team => sql.push("team"),
            Column::User => sql.push("user_name"),
            Column::Provider => sql.push("provider"),
            Column::Model => sql.push("model"),
            Column::Api => sql.push("api"),
            Column::Day if question.source() == Source::Days => sql.push("to_char(day, 'YYYY-MM-DD')"),
            Column::Day => sql.push("to_char(hour at time zone 'UTC', 'YYYY-MM-DD')"),
            Column::Hour => sql.push("to_char(hour at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:00:00\"Z\"')"),
            Column::Tag(tag) => {
                sql.push("coalesce(tags::jsonb ->> ");
                sql.push_bind(tag.clone());
                sql.push("::text, '')")
            }
        };
        sql.push(format!(" collate \"C\" as k{at}, "));
    }
    let coarser = |column: &Column| {
        matches!(column, Column::Tag(_)) || (*column == Column::Day && question.source() == Source::Hours)
    };
    if question.columns.iter().any(coarser) {
        let places: Vec<String> = (1..=question.columns.len()).map(|place| place.to_string()).collect();
        sql.push(format!(
            "{}, array[]::bigint[] as latency_counts from g group by {}) ",
            SUMS.map(|column| format!("sum({column})::bigint as {column}")).join(", "),
            places.join(", ")
        ));
    } else {
        sql.push(format!("{}, latency_counts from g) ", SUMS.join(", ")));
    }
}

fn conditions(sql: &mut QueryBuilder<Postgres>, question: &Question) {
    let filter = &question.filter;
    match &filter.org {
        Some(org) => {
            sql.push("org = ");
            sql.push_bind(org.clone());
        }
        None => {
            sql.push("org in (select org from orgs where org is not null)");
        }
    }
    let (column, cast) = match question.source() {
        Source::Days => ("day", "at time zone 'UTC')::date"),
        Source::Hours => ("hour", ")"),
    };
    for (comparison, at) in [(">=", question.range.from_unix_s), ("<", question.range.to_unix_s)] {
        sql.push(format!(" and {column} {comparison} (to_timestamp("));
        sql.push_bind(at);
        sql.push(format!("::bigint) {cast}"));
    }
    for (column, value) in [
        ("team", &filter.team),
        ("user_name", &filter.user),
        ("provider", &filter.provider),
        ("model", &filter.model),
        ("api", &filter.api),
    ] {
        if let Some(value) = value {
            sql.push(format!(" and {column} = "));
            sql.push_bind(value.clone());
        }
    }
    if let Some((tag, value)) = &filter.tag {
        // The text of a jsonb: a quote inside a name or value has a backslash before it, so that this can't be
        // found across two of them.
        sql.push(" and strpos(tags, ");
        sql.push_bind(format!("{}: {}", json_text(tag), json_text(value)));
        sql.push(") > 0");
    }
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Only groups after the last one told.
fn after(sql: &mut QueryBuilder<Postgres>, question: &Question, keys: &[String]) {
    let Some(names) = question.after.as_ref().filter(|names| names.len() == keys.len()) else { return };
    sql.push(format!("where ({}) > (", keys.join(", ")));
    let mut values = sql.separated(", ");
    for name in names {
        values.push_bind(name.clone());
    }
    sql.push(") ");
}

fn sums(row: &PgRow) -> sqlx::Result<Sums> {
    Ok(Sums {
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
    })
}
