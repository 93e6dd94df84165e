//! The price list in the database. Versions are added and never edited.

use std::collections::BTreeSet;
use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Connection, PgConnection, PgPool, Row};

use crate::prices::names;
use crate::prices::plan::{self, Entry, Planned, SINCE_EVER_UNIX_S, Source, Version, Wanted};
use crate::pricing::{Alias, CLASSES, PriceBook, PriceRow, Rates, Terms};

/// The channel on which a change of prices or aliases is told.
pub const CHANNEL: &str = "purser_prices";

/// Whoever adds prices does so alone: what is planned is planned on what is there.
const LOCK: &str = "select pg_advisory_xact_lock(hashtext('purser.prices'))";

const COLUMNS: &str = "price_id, provider, model, 
    case when isfinite(effective_from) then extract(epoch from effective_from)::bigint end as from_unix_s,
    input_nanousd_per_mtok, cached_input_nanousd_per_mtok, cache_write_5m_nanousd_per_mtok,
    cache_write_1h_nanousd_per_mtok, output_nanousd_per_mtok, reasoning_nanousd_per_mtok,
    audio_input_nanousd_per_mtok, audio_output_nanousd_per_mtok, image_input_nanousd_per_mtok,
    image_output_nanousd_per_mtok, reasons, terms, unpriced, source, note";

/// Reads the whole price list and the aliases. A list somebody adds to is read whole or not at all: an
/// import is one transaction.
///
/// # Errors
/// The database's.
pub async fn price_book(pool: &PgPool) -> sqlx::Result<PriceBook> {
    let mut connection = pool.acquire().await?;
    let versions = versions(&mut connection).await?;
    let aliases = aliases(&mut connection).await?;
    Ok(PriceBook::new(versions.into_iter().map(|version| version.row), aliases))
}

/// Whether the schema has the price list that this program reads.
///
/// # Errors
/// The database's.
pub async fn is_there(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let sql = "select to_regclass('model_aliases') is not null and exists (select from pg_attribute
                where attrelid = to_regclass('model_prices') and attname = 'price_id')";
    sqlx::query(sql).fetch_one(connection).await?.try_get(0)
}

/// Every version there is. A row that can't be read, which nothing that this program writes is, is logged by its number and its
/// model counts as one without known prices while that row would be in force.
///
/// # Errors
/// As [`price_book`].
pub async fn versions(connection: &mut PgConnection) -> sqlx::Result<Vec<Version>> {
    let sql =
        format!("select {COLUMNS} from model_prices order by provider, model, effective_from, price_id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(connection).await?;
    let mut versions = Vec::with_capacity(rows.len());
    for row in &rows {
        versions.extend(version(row)?);
    }
    Ok(versions)
}

fn version(row: &PgRow) -> sqlx::Result<Option<Version>> {
    let price_id: i64 = row.try_get("price_id")?;
    let (provider, model): (String, String) = (row.try_get("provider")?, row.try_get("model")?);
    let unreadable = |problem: &str| {
        tracing::error!(price_id, %provider, %model, problem, "a price can't be read; its model is unknown");
    };
    let Some(effective_from_unix_s) = row.try_get("from_unix_s")? else {
        unreadable("effective_from: expected an instant");
        return Ok(None);
    };
    let known = |column: &str| row.try_get::<Option<i64>, _>(column);
    let rates = Rates::from_known([
        known("input_nanousd_per_mtok")?,
        known("cached_input_nanousd_per_mtok")?,
        known("cache_write_5m_nanousd_per_mtok")?,
        known("cache_write_1h_nanousd_per_mtok")?,
        known("output_nanousd_per_mtok")?,
        known("reasoning_nanousd_per_mtok")?,
        known("audio_input_nanousd_per_mtok")?,
        known("audio_output_nanousd_per_mtok")?,
        known("image_input_nanousd_per_mtok")?,
        known("image_output_nanousd_per_mtok")?,
    ]);
    let mut unpriced: BTreeSet<String> = row.try_get::<Vec<String>, _>("unpriced")?.into_iter().collect();
    let Json(terms): Json<serde_json::Value> = row.try_get("terms")?;
    let read = serde_json::from_value::<Terms>(terms).map_err(|error| error.to_string());
    let terms = read.and_then(|terms| terms.check().map(|()| terms)).unwrap_or_else(|problem| {
        unreadable(&format!("terms: {problem}"));
        // Whatever occurs is charged at the dearest known rate, and flagged.
        unpriced.extend(CLASSES.map(str::to_owned));
        unpriced.insert("terms".to_owned());
        Terms::default()
    });
    let source: String = row.try_get("source")?;
    Ok(Some(Version {
        // One that only a later program knows counts as much as any.
        source: Source::from_name(&source).unwrap_or(Source::Operator),
        note: row.try_get("note")?,
        row: PriceRow {
            price_id,
            provider,
            model,
            effective_from_unix_s,
            rates,
            reasons: row.try_get("reasons")?,
            terms: Arc::new(terms),
            unpriced: Arc::new(unpriced),
        },
    }))
}

/// The aliases.
///
/// # Errors
/// The database's.
pub async fn aliases(connection: &mut PgConnection) -> sqlx::Result<Vec<Alias>> {
    let rows = sqlx::query(
        "select provider, alias, target_provider, target_model from model_aliases order by provider, alias",
    )
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Alias {
                provider: row.try_get("provider")?,
                alias: row.try_get("alias")?,
                target_provider: row.try_get("target_provider")?,
                target_model: row.try_get("target_model")?,
            })
        })
        .collect()
}

/// Plans on what is there and adds what `plan` chose, in one transaction that no other addition runs
/// beside; gives back the plan. With `dry_run` nothing is written.
///
/// # Errors
/// The database's; then nothing was written.
pub async fn add<T>(
    connection: &mut PgConnection,
    dry_run: bool,
    plan: impl FnOnce(&[Version]) -> (T, Vec<Entry>),
) -> sqlx::Result<T> {
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK).execute(&mut *transaction).await?;
    let (planned, entries) = plan(&versions(&mut transaction).await?);
    if !dry_run && !entries.is_empty() {
        insert(&mut transaction, &entries).await?;
    }
    transaction.commit().await?;
    Ok(planned)
}

async fn insert(connection: &mut PgConnection, entries: &[Entry]) -> sqlx::Result<()> {
    for entry in entries {
        entry.check().map_err(|problem| {
            let (provider, model) = (names::shown(&entry.provider), names::shown(&entry.model));
            sqlx::Error::Encode(format!("price of {provider} {model}: {problem}").into())
        })?;
    }
    let records: Vec<serde_json::Value> = entries.iter().map(record).collect();
    sqlx::query(INSERT).bind(Json(records)).execute(connection).await.map(drop)
}

const INSERT: &str = "
    insert into model_prices (provider, model, effective_from, input_nanousd_per_mtok,
        cached_input_nanousd_per_mtok, cache_write_5m_nanousd_per_mtok, cache_write_1h_nanousd_per_mtok,
        output_nanousd_per_mtok, reasoning_nanousd_per_mtok, audio_input_nanousd_per_mtok,
        audio_output_nanousd_per_mtok, image_input_nanousd_per_mtok, image_output_nanousd_per_mtok,
        reasons, terms, unpriced, source, note)
    select r.provider, r.model, to_timestamp(r.from_unix_s), r.input, r.cached_input, r.cache_write_5m,
           r.cache_write_1h, r.output, r.reasoning, r.audio_input, r.audio_output, r.image_input,
           r.image_output, r.reasons, r.terms,
           coalesce((select array_agg(u order by u) from jsonb_array_elements_text(r.unpriced) u), '{}'),
           r.source, r.note
      from jsonb_to_recordset($1) as r (provider text, model text, from_unix_s bigint, input bigint,
           cached_input bigint, cache_write_5m bigint, cache_write_1h bigint, output bigint, reasoning bigint,
           audio_input bigint, audio_output bigint, image_input bigint, image_output bigint, reasons boolean,
           terms jsonb, unpriced jsonb, source text, note text)
     order by r.provider, r.model, r.from_unix_s";

fn record(entry: &Entry) -> serde_json::Value {
    let r = &entry.rates;
    serde_json::json!({
        "provider": entry.provider, "model": entry.model, "from_unix_s": entry.effective_from_unix_s,
        "input": r.input, "cached_input": r.cached_input, "cache_write_5m": r.cache_write_5m,
        "cache_write_1h": r.cache_write_1h, "output": r.output, "reasoning": r.reasoning,
        "audio_input": r.audio_input, "audio_output": r.audio_output, "image_input": r.image_input,
        "image_output": r.image_output, "reasons": entry.reasons, "terms": entry.terms,
        "unpriced": entry.unpriced, "source": entry.source.as_str(), "note": entry.note,
    })
}

/// Adds what a catalogue wants, leaving what others than the catalogue and the schema have set.
///
/// # Errors
/// The database's; then nothing was written.
pub async fn load_catalogue(
    connection: &mut PgConnection,
    dry_run: bool,
    wanted: Vec<Wanted>,
) -> sqlx::Result<Vec<Planned>> {
    add(connection, dry_run, |versions| {
        plan::plan(versions, wanted, Source::Catalogue, SINCE_EVER_UNIX_S, SINCE_EVER_UNIX_S)
    })
    .await
}

/// As [`load_catalogue`], but only into a list that no catalogue and no file was loaded into yet; what an
/// operator set before stays. Gives the number of versions added.
///
/// # Errors
/// The database's; then nothing was written.
pub async fn load_first(pool: &PgPool, wanted: Vec<Wanted>) -> sqlx::Result<usize> {
    let mut connection = pool.acquire().await?;
    let touched: bool =
        sqlx::query("select exists (select from model_prices where source in ('catalogue', 'import'))")
            .fetch_one(&mut *connection)
            .await?
            .try_get(0)?;
    if touched {
        return Ok(0);
    }
    let mut transaction = connection.begin().await?;
    // Whoever has the lock is adding prices; the change is told when it is done.
    let alone: bool = sqlx::query("select pg_try_advisory_xact_lock(hashtext('purser.prices'))")
        .fetch_one(&mut *transaction)
        .await?
        .try_get(0)?;
    let versions = versions(&mut transaction).await?;
    let loaded = |version: &Version| matches!(version.source, Source::Catalogue | Source::Import);
    if !alone || versions.iter().any(loaded) {
        return Ok(0);
    }
    let (_, entries) = plan::plan(&versions, wanted, Source::Catalogue, SINCE_EVER_UNIX_S, SINCE_EVER_UNIX_S);
    insert(&mut transaction, &entries).await?;
    transaction.commit().await?;
    Ok(entries.len())
}

/// Sets what a name stands for.
///
/// # Errors
/// The database's.
pub async fn set_alias(connection: &mut PgConnection, alias: &Alias) -> sqlx::Result<()> {
    sqlx::query(
        "insert into model_aliases (provider, alias, target_provider, target_model) values ($1, $2, $3, $4)
         on conflict (provider, alias) do update set target_provider = excluded.target_provider,
             target_model = excluded.target_model, updated_at = now()",
    )
    .bind(&alias.provider)
    .bind(&alias.alias)
    .bind(&alias.target_provider)
    .bind(&alias.target_model)
    .execute(connection)
    .await
    .map(drop)
}

/// Takes an alias away; `false` when there is none.
///
/// # Errors
/// The database's.
pub async fn remove_alias(connection: &mut PgConnection, provider: &str, alias: &str) -> sqlx::Result<bool> {
    let done = sqlx::query("delete from model_aliases where provider = $1 and alias = $2")
        .bind(provider)
        .bind(alias)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Calls of one model that were not priced by a known price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlaggedModel {
    /// Who bills.
    pub provider: String,
    /// The model sent upstream.
    pub model: String,
    /// `ceiling` or `partial`.
    pub flag: String,
    /// What occurred and had no known price.
    pub unpriced: Vec<String>,
    /// How many.
    pub calls: i64,
    /// What they were charged, later corrections included, nano-USD.
    pub cost_nanousd: i64,
    /// The latest, Unix seconds.
    pub last_at_unix_s: i64,
}

/// An org's flagged calls of the last `days`, by model, the dearest first.
///
/// # Errors
/// The database's.
pub async fn flagged(
    pool: &PgPool,
    (org, team): (&str, Option<&str>),
    days: i32,
) -> sqlx::Result<Vec<FlaggedModel>> {
    let mut transaction = pool.begin().await?;
    sqlx::query("set local statement_timeout = '10s'").execute(&mut *transaction).await?;
    let rows = sqlx::query(
        "select f.provider, f.model, f.price_flag, f.unpriced, count(*) as calls,
                sum((select sum(c.cost_nanousd) from llm_requests c
                      where c.org = f.org and c.hold_id = f.hold_id))::bigint as cost_nanousd,
                extract(epoch from max(f.occurred_at))::bigint as last_at_unix_s
           from llm_requests f
          where f.org = $1 and f.occurred_at > now() - $2 * interval '1 day' and f.price_flag <> ''
            and ($4::text is null or f.team = $4)
            and not exists (select from llm_requests l where l.org = f.org and l.hold_id = f.hold_id
                               and l.entry > f.entry)
          group by f.provider, f.model, f.price_flag, f.unpriced
          order by cost_nanousd desc, f.provider, f.model limit $3",
    )
    .bind(org)
    .bind(days)
    .bind(super::MAX_ROWS)
    .bind(team)
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    rows.iter()
        .map(|row| {
            Ok(FlaggedModel {
                provider: row.try_get("provider")?,
                model: row.try_get("model")?,
                flag: row.try_get("price_flag")?,
                unpriced: row.try_get("unpriced")?,
                calls: row.try_get("calls")?,
                cost_nanousd: row.try_get("cost_nanousd")?,
                last_at_unix_s: row.try_get("last_at_unix_s")?,
            })
        })
        .collect()
}
