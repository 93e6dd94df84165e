//! Puts right what calls were charged by a wrong price. Sync, over `postgres`, as the tracker.
//!
//! History is not edited: a call whose cost comes out different gets one more entry, of cause `repriced`,
//! that carries the difference, counts no request and no token, and names the price used. It counts where
//! the call's first entry did, in its counters and on its day, and takes its locks in the order of every
//! writer (see [`crate::ledger::counters`]): days, counters, summary rows. Only calls whose whole usage is
//! known are touched, once all of it has a price, and nothing else ever adds entries to those: two repricings
//! at once would, and so there is one at a time. Doing it again finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};

use postgres::types::Json;
use postgres::{Client, Row, Transaction};
use purser_protocol::{Api, Usage, format_usd};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::aggregate::error_text;
use crate::ledger::counters::{KeyColumns, LOCK_COUNTERS};
use crate::ledger::decide::{CounterKey, CounterRef};
use crate::pricing::cost::UNTOLD_USAGE;
use crate::pricing::{PriceBook, Used};
use crate::tracker::model::{Charge, Cheaper, Cost, Effects, Facts, NewEntry, Subject};
use crate::tracker::{records, rollup};

/// Calls looked at in one transaction.
const BATCH: i64 = 500;

/// Which calls to look at.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Sent to this model, answered by it, priced as it, or of a name that stands for it: an alias or a dated
    /// one.
    pub model: String,
    /// Billed by this provider only.
    pub provider: Option<String>,
    /// From this instant on, Unix seconds.
    pub from_unix_s: i64,
    /// Until before this instant, Unix seconds.
    pub to_unix_s: i64,
    /// Say what would change and write nothing.
    pub dry_run: bool,
}

/// What was found and done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Repriced {
    /// Calls looked at.
    pub calls: i64,
    /// Of these, calls that cost something else.
    pub changed: i64,
    /// Calls that can't be priced anew: charged by an estimate or by what the provider reported.
    pub left_alone: i64,
    /// Sum of the corrections, signed.
    #[serde(rename = "difference_usd", serialize_with = "as_usd")]
    pub difference_nanousd: i64,
}

fn as_usd<S: Serializer>(nanousd: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_usd(*nanousd))
}

/// Why it stopped. What was committed before stays; doing it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum RepriceError {
    /// Two at once would both add the difference.
    #[error("another repricing of this database is running")]
    Busy,
    /// A row that can't be read or stored.
    #[error("{0}")]
    Data(String),
    /// The database refused or was away.
    #[error("{0}")]
    Database(String),
}

impl From<postgres::Error> for RepriceError {
    fn from(error: postgres::Error) -> Self {
        Self::Database(error_text(&error))
    }
}

/// Prices the selected calls anew by `book`.
///
/// # Errors
/// [`RepriceError`].
pub fn reprice(
    client: &mut Client,
    book: &PriceBook,
    selection: &Selection,
) -> Result<Repriced, RepriceError> {
    let turn = "select pg_try_advisory_lock(hashtext('purser.reprice'))";
    if !client.query_one(turn, &[])?.try_get::<_, bool>(0)? {
        return Err(RepriceError::Busy);
    }
    let done = batches(client, book, selection);
    // A broken connection has let go of it already; the error that says so is the one worth reading.
    let unlocked = client.execute("select pg_advisory_unlock(hashtext('purser.reprice'))", &[]);
    let done = done?;
    unlocked?;
    Ok(done)
}

fn batches(client: &mut Client, book: &PriceBook, selection: &Selection) -> Result<Repriced, RepriceError> {
    let mut sum = Repriced::default();
    let names = book.names_of(&selection.model);
    let mut after = (String::new(), Uuid::nil());
    loop {
        let rows = client.query(
            SELECT,
            &[
                &names,
                &selection.from_unix_s,
                &selection.to_unix_s,
                &after.0,
                &after.1,
                &BATCH,
                &selection.provider,
                &selection.model,
            ],
        )?;
        let Some(last) = rows.last() else { return Ok(sum) };
        after = (last.try_get("org")?, last.try_get("hold_id")?);
        let mut entries = Vec::new();
        for row in &rows {
            sum.calls = sum.calls.saturating_add(1);
            match correction(row, book)? {
                Anew::LeftAlone => sum.left_alone = sum.left_alone.saturating_add(1),
                Anew::Same => {}
                Anew::Other(entry) => {
                    sum.changed = sum.changed.saturating_add(1);
                    sum.difference_nanousd = sum.difference_nanousd.saturating_add(entry.cost_nanousd);
                    entries.push(*entry);
                }
            }
        }
        if !selection.dry_run && !entries.is_empty() {
            let mut transaction = client.transaction()?;
            write(&mut transaction, entries)?;
            transaction.commit()?;
        }
    }
}

/// Calls in key order, each as its settlement told it, with the sum and number of its entries. `$1` names,
/// `$2` and `$3` the range in Unix seconds, `$4` and `$5` the key to go on after, `$6` how many, `$7` provider
/// or null, `$8` the model as prices name it.
const SELECT: &str = r"
    select s.*, (extract(epoch from s.occurred_at) * 1000000)::bigint as occurred_us, e.entries, e.charged
      from llm_requests s
     cross join lateral (
          select count(*)::integer as entries, sum(cost_nanousd)::bigint as charged
            from llm_requests where org = s.org and hold_id = s.hold_id) e
     where s.cause in ('settled', 'estimated') and ($7::text is null or s.provider = $7)
       and (s.priced_as = $8
            or s.model = any($1::text[]) or s.answered_model = any($1::text[])
            or regexp_replace(s.model, '(-\d{4}-\d{2}-\d{2}|[-@]\d{8})$', '') = $8
            or regexp_replace(s.answered_model, '(-\d{4}-\d{2}-\d{2}|[-@]\d{8})$', '') = $8
            or exists (select from llm_requests r where r.org = s.org and r.hold_id = s.hold_id
                          and r.cause = 'repriced' and r.priced_as = $8))
       and s.occurred_at >= to_timestamp($2::bigint) and s.occurred_at < to_timestamp($3::bigint)
       and (s.org, s.hold_id) > ($4::text, $5::uuid)
     order by s.org, s.hold_id limit $6";

enum Anew {
    /// It can't be priced anew.
    LeftAlone,
    /// It costs the same.
    Same,
    /// It costs something else.
    Other(Box<NewEntry>),
}

fn correction(row: &Row, book: &PriceBook) -> Result<Anew, RepriceError> {
    if !is_whole(row)? {
        return Ok(Anew::LeftAlone);
    }
    let occurred_at_unix_us: i64 = row.try_get("occurred_us")?;
    let (provider, model): (String, String) = (row.try_get("provider")?, row.try_get("model")?);
    let answered: Option<&str> = row.try_get("answered_model")?;
    let at_unix_s = occurred_at_unix_us.div_euclid(1_000_000);
    let price = book
        .find_answered(&provider, &model, answered, at_unix_s)
        .ok_or_else(|| RepriceError::Data("the price list is empty".to_owned()))?;
    let Json(units): Json<BTreeMap<String, u64>> = row.try_get("units")?;
    let usage = usage(row)?;
    let costed = price
        .cost(Used { usage: &usage, units: &units, service_tier: row.try_get("service_tier")? })
        .map_err(|error| RepriceError::Data(error.to_string()))?;
    let charged: i64 = row.try_get("charged")?;
    let cost_nanousd = costed.nanousd.saturating_sub(charged);
    if costed.at_least {
        return Ok(Anew::LeftAlone);
    }
    if cost_nanousd == 0 {
        return Ok(Anew::Same);
    }
    let Json(counters): Json<Vec<CounterRef>> = row.try_get("counters")?;
    let Json(tags) = row.try_get("tags")?;
    Ok(Anew::Other(Box::new(NewEntry {
        key: (row.try_get("org")?, row.try_get("hold_id")?),
        entry: row.try_get("entries")?,
        cost_nanousd,
        held_nanousd: 0,
        cause: "repriced",
        occurred_at_unix_us,
        counters,
        subject: Subject {
            team: row.try_get("team")?,
            user: row.try_get("user_name")?,
            provider,
            model,
            api: row.try_get("api")?,
            tags,
        },
        override_id: row.try_get("override_id")?,
        cheaper: Cheaper {
            asked_model: row.try_get("asked_model")?,
            clamped_to_tokens: row.try_get("clamped_to_tokens")?,
        },
        charge: Some(Charge {
            cost: Cost::Exactly(costed.nanousd),
            estimate_nanousd: 0,
            price_id: price.price_id,
            price_flag: price.flag(&costed.unpriced),
            unpriced: costed.unpriced,
            priced_as: price.priced_as,
            price_match: price.matched.as_str(),
            price_effective_from_unix_s: price.effective_from_unix_s,
        }),
        // Tokens, duration and status are those of the entry that is corrected.
        facts: Facts {
            answered_model: answered.map(str::to_owned),
            usage_quality: "exact",
            admission: "held",
            ending: "unknown",
            ..Facts::default()
        },
    })))
}

/// Whether all that the call used is known. An exact usage was charged by an estimate where something of it
/// had no price then, which may have one now; or else because it isn't all the call will be billed for.
fn is_whole(row: &Row) -> Result<bool, RepriceError> {
    let waited_for_a_price = || -> Result<bool, RepriceError> {
        let unpriced: Vec<&str> = row.try_get("unpriced")?;
        let api: &str = row.try_get("api")?;
        let deferred =
            [Api::OpenaiBatches, Api::AnthropicBatches].iter().any(|batches| batches.as_str() == api);
        Ok(unpriced.iter().any(|name| *name != UNTOLD_USAGE) && !deferred)
    };
    let (quality, cause): (&str, &str) = (row.try_get("usage_quality")?, row.try_get("cause")?);
    let reported = row.try_get::<_, &str>("price_match")? == "reported";
    Ok(quality == "exact" && !reported && (cause == "settled" || waited_for_a_price()?))
}

fn usage(row: &Row) -> Result<Usage, RepriceError> {
    let tokens = |column: &str| -> Result<u64, RepriceError> {
        let count: i64 = row.try_get(column)?;
        u64::try_from(count).map_err(|_| RepriceError::Data(format!("{column}: {count} tokens")))
    };
    Ok(Usage {
        input_tokens: tokens("input_tokens")?,
        cached_input_tokens: tokens("cached_input_tokens")?,
        cache_write_5m_tokens: tokens("cache_write_5m_tokens")?,
        cache_write_1h_tokens: tokens("cache_write_1h_tokens")?,
        output_tokens: tokens("output_tokens")?,
        reasoning_tokens: tokens("reasoning_tokens")?,
        audio_input_tokens: tokens("audio_input_tokens")?,
        audio_output_tokens: tokens("audio_output_tokens")?,
        image_input_tokens: tokens("image_input_tokens")?,
        image_output_tokens: tokens("image_output_tokens")?,
    })
}

const LOCK_DAYS: &str = "
    with days as materialized (
        select distinct hashtext(org) as org_hash, day
          from unnest($1::text[], $2::integer[]) as k (org, day) order by 1, 2)
    select count(pg_advisory_xact_lock_shared(org_hash, day)) from days";

/// Adds the entries. A counter that somebody deleted by hand is left out, as the tracker does.
fn write(transaction: &mut Transaction<'_>, entries: Vec<NewEntry>) -> Result<(), RepriceError> {
    let (orgs, days): (Vec<&str>, Vec<i32>) =
        entries.iter().map(|entry| (entry.key.0.as_str(), rollup::day(entry.occurred_at_unix_us))).unzip();
    transaction.execute(LOCK_DAYS, &[&orgs, &days])?;
    let mut effects = Effects::default();
    for entry in &entries {
        for counter in &entry.counters {
            let counter = CounterKey { org: entry.key.0.clone(), counter: counter.clone() };
            let change = effects.changes.entry(counter).or_default();
            change.spent_nanousd = change.spent_nanousd.saturating_add(entry.cost_nanousd);
        }
    }
    let now_unix_us: i64 =
        transaction.query_one("select (extract(epoch from now()) * 1000000)::bigint", &[])?.try_get(0)?;
    effects.entries = entries;
    let records = records::entries(&effects.entries, now_unix_us).map_err(RepriceError::Data)?;
    let entered = transaction.execute(records::ENTER, &[&Json(&records)])?;
    if usize::try_from(entered) != Ok(records.len()) {
        return Err(RepriceError::Data("a call got another entry meanwhile; run it again".to_owned()));
    }
    let hours = rollup::hours(&effects.entries).map_err(RepriceError::Data)?;
    let days = rollup::days(&effects.entries).map_err(RepriceError::Data)?;
    let none = Json(Vec::<rollup::LengthRecord>::new());
    transaction.execute(rollup::ADD, &[&Json(&hours), &Json(&days), &none, &rollup::HALVE_ABOVE])?;
    let keys: BTreeSet<CounterKey> = effects.changes.keys().cloned().collect();
    let k = KeyColumns::new(&keys);
    transaction.query(LOCK_COUNTERS, &[&k.orgs, &k.budget_ids, &k.subjects, &k.periods])?;
    transaction.execute(records::CHANGE, &records::ChangeRows::of(&effects).parameters())?;
    Ok(())
}
