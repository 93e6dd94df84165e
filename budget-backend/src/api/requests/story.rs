//! The story of one call, told from its rows. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use purser_protocol::{Window, format_usd};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{DenialView, denial_view, instant};
use crate::admin::requests;
use crate::budget::zone_or_utc;
use crate::window::{period, rfc3339};

/// The whole story of a call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestStory)]
pub struct Story {
    hold_id: Uuid,
    org: String,
    /// Empty without one.
    pub(super) team: String,
    /// Empty without one.
    user: String,
    provider: String,
    /// The model that ran, or was asked for by a refused call.
    model: String,
    api: String,
    /// The model asked for, when a cheaper one ran.
    #[schema(required)]
    asked_model: Option<String>,
    /// Cost tags.
    tags: BTreeMap<String, String>,
    /// When it was let through or refused.
    #[schema(required)]
    at: Option<String>,
    /// `denied`, `open` (running), `settled`, `voided` (nothing was sent), `expired` (charged in full), or
    /// `unrecorded` (its settlement could not be recorded).
    state: String,
    verdict: VerdictView,
    /// Gone an hour after it closed; what was held stays in the entries.
    #[schema(required)]
    hold: Option<HoldView>,
    /// The version of the price used by the latest entry; null for a price that is in no list.
    #[schema(required)]
    price: Option<PriceView>,
    /// The first charge, and then every correction.
    entries: Vec<EntryView>,
    /// What it cost with every correction.
    cost_usd: String,
    /// Why its settlement could not be recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    unrecorded_because: Option<String>,
}

/// What was decided, by tier.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestVerdict)]
pub struct VerdictView {
    /// `allow`, `deny`, or `none` where the call went out without one.
    verdict: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    denied: Option<DenialView>,
    /// The budgets it counts in, and the tiers without one; of a refused call the budget that refused.
    tiers: Vec<TierView>,
    /// The override without which it would have been refused.
    #[schema(required)]
    override_id: Option<i64>,
    /// The output cap, tokens per choice, to which a budget lowered its own.
    #[schema(required)]
    clamped_to_tokens: Option<i64>,
}

/// A tier's part in the verdict.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestTier)]
pub struct TierView {
    /// `org`, `team` or `user`; null for a budget that is gone.
    #[schema(required)]
    tier: Option<String>,
    /// `passed`, `counted` (a shadow budget, which refuses nothing), `refused`, or `unbudgeted`.
    verdict: &'static str,
    #[schema(required)]
    budget_id: Option<i64>,
    /// For a `*` budget the team or user counted; else empty.
    subject: String,
    #[schema(required)]
    window: Option<String>,
    #[schema(required)]
    period_start: Option<String>,
    /// Its limit now, top-ups apart; then it may have been another.
    #[schema(required)]
    limit_usd_now: Option<String>,
    /// Whether it is archived by now.
    archived: bool,
    #[schema(required)]
    resets_at: Option<String>,
}

/// What was held.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestHold)]
pub struct HoldView {
    held_usd: String,
    #[schema(required)]
    held_at: Option<String>,
    #[schema(required)]
    expires_at: Option<String>,
    #[schema(required)]
    closed_at: Option<String>,
    /// The output cap that the verdict wrote into the request, tokens per choice.
    #[schema(required)]
    output_cap_tokens: Option<i64>,
}

/// The version of a price.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestPrice)]
pub struct PriceView {
    price_id: i64,
    provider: String,
    model: String,
    #[schema(required)]
    effective_from: Option<String>,
    /// Who added it: `migration`, `catalogue`, `import` or `operator`.
    source: String,
    /// Where its figures are from.
    note: String,
    input_usd_per_mtok: String,
    output_usd_per_mtok: String,
}

/// A charge or a correction.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RequestEntry)]
pub struct EntryView {
    /// 0: the first charge; more: corrections of it.
    entry: i64,
    /// `settled`, `estimated` (no usage came back), `expired` (no settlement came), `repriced`.
    cause: String,
    #[schema(required)]
    recorded_at: Option<String>,
    /// Signed in corrections.
    cost_usd: String,
    held_usd: String,
    /// `held`, or `fail_open` where no verdict could be had.
    admission: String,
    /// `exact`, `at_least` or `none`.
    usage_quality: String,
    /// Tokens by class; those of none are left out.
    tokens: BTreeMap<String, i64>,
    /// What costs by the piece.
    units: BTreeMap<String, i64>,
    #[schema(required)]
    answered_model: Option<String>,
    /// The price list's name that was used.
    priced_as: String,
    /// How the price was found: `exact`, `alias`, `undated`, `configured`, `ceiling`, `reported`.
    price_match: String,
    /// Empty where every price was known; else `ceiling` or `partial`.
    price_flag: String,
    /// What occurred and had no known price.
    unpriced: Vec<String>,
    /// The upstream's status; 0 when no answer came.
    http_status: i64,
    /// `complete`, `client_gone`, `upstream_cut` or `unknown`.
    ending: String,
    #[schema(required)]
    duration_ms: Option<i64>,
    #[schema(required)]
    first_byte_ms: Option<i64>,
    /// The provider's id of the answer, to find the call on its invoice.
    #[schema(required)]
    response_id: Option<String>,
}

const CLASSES: [&str; 10] = [
    "input_tokens",
    "cached_input_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "output_tokens",
    "reasoning_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
];

fn text(row: &Value, column: &str) -> String {
    row[column].as_str().unwrap_or_default().to_owned()
}

fn some_text(row: &Value, column: &str) -> Option<String> {
    row[column].as_str().map(str::to_owned)
}

fn number(row: &Value, column: &str) -> i64 {
    row[column].as_i64().unwrap_or_default()
}

fn usd(row: &Value, column: &str) -> String {
    format_usd(number(row, column))
}

/// A column of type timestamptz, in UTC whatever the session's zone.
fn at(row: &Value, column: &str) -> Option<String> {
    row[column].as_str()?.parse::<Timestamp>().ok().map(|at| at.to_string())
}

fn counts(value: &Value) -> BTreeMap<String, i64> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(name, count)| Some((name.clone(), count.as_i64()?))).collect()
}

/// Tells it.
pub fn tell(hold_id: Uuid, rows: requests::Story) -> Story {
    let (denial, hold) = (rows.denial.as_ref(), rows.hold.as_ref());
    // The latest entry knows most; the hold is there before it, and a refusal has neither.
    let known = rows.entries.last().or(hold).cloned().unwrap_or_default();
    let [team, user, provider, model, api] = match denial {
        Some(denial) if known.is_null() => denial.names.clone(),
        _ => ["team", "user_name", "provider", "model", "api"].map(|column| text(&known, column)),
    };
    let at = match denial {
        Some(denial) if known.is_null() => instant(denial.at_unix_us),
        _ => hold.and_then(|hold| at(hold, "held_at")).or_else(|| at(&known, "occurred_at")),
    };
    let tags = known["tags"].as_object().into_iter().flatten();
    let tags = tags.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
    let cost_nanousd =
        rows.entries.iter().map(|entry| number(entry, "cost_nanousd")).fold(0, i64::saturating_add);
    Story {
        hold_id,
        team,
        user,
        provider,
        model,
        api,
        asked_model: some_text(&known, "asked_model"),
        tags,
        at,
        state: state(&rows),
        verdict: verdict(&rows, &known),
        hold: hold.map(hold_view),
        price: rows.price.as_ref().map(price_view),
        entries: rows.entries.iter().map(entry_view).collect(),
        cost_usd: format_usd(cost_nanousd),
        unrecorded_because: rows.quarantined,
        org: rows.org,
    }
}

fn state(rows: &requests::Story) -> String {
    let closed = rows.hold.as_ref().map(|hold| text(hold, "state"));
    match (closed, rows.entries.last()) {
        (Some(state), _) => state,
        (None, Some(last)) if text(last, "cause") == "expired" => "expired".to_owned(),
        (None, Some(_)) => "settled".to_owned(),
        (None, None) if rows.denial.is_some() => "denied".to_owned(),
        (None, None) => "unrecorded".to_owned(),
    }
}

fn verdict(rows: &requests::Story, known: &Value) -> VerdictView {
    let denied = rows.denial.as_ref().map(denial_view);
    let without = rows.hold.is_none() && rows.entries.iter().any(|entry| entry["admission"] == "fail_open");
    // An id that was refused and is let through when it comes again has both; what went out counts.
    let verdict = match (&denied, known.is_null()) {
        (Some(_), true) => "deny",
        _ if without || known.is_null() => "none",
        _ => "allow",
    };
    let mut tiers: Vec<TierView> = rows.budgets.iter().map(tier_view).collect();
    if verdict == "allow" {
        let missing = ["org", "team", "user"].into_iter().filter(|tier| {
            !rows.budgets.is_empty() && !tiers.iter().any(|view| view.tier.as_deref() == Some(tier))
        });
        tiers.extend(missing.map(unbudgeted).collect::<Vec<_>>());
    }
    if let Some(budget) =
        denied.as_ref().filter(|_| verdict == "deny").and_then(|denied| denied.budget.as_ref())
    {
        tiers.push(TierView {
            verdict: "refused",
            budget_id: Some(budget.budget_id),
            window: Some(budget.window.clone()),
            resets_at: budget.resets_at.clone(),
            ..unbudgeted(&budget.tier)
        });
    }
    VerdictView {
        verdict,
        denied,
        tiers,
        override_id: known["override_id"].as_i64(),
        clamped_to_tokens: known["clamped_to_tokens"]
            .as_i64()
            .or_else(|| known["output_cap_tokens"].as_i64().filter(|_| known["clamped"] == true)),
    }
}

fn unbudgeted(tier: &str) -> TierView {
    TierView {
        tier: Some(tier.to_owned()),
        verdict: "unbudgeted",
        budget_id: None,
        subject: String::new(),
        window: None,
        period_start: None,
        limit_usd_now: None,
        archived: false,
        resets_at: None,
    }
}

fn tier_view(budget: &Value) -> TierView {
    let tier = match (budget["team"].as_str(), budget["user"].as_str()) {
        (None, _) | (_, None) => None,
        (Some(""), _) => Some("org"),
        (_, Some("")) => Some("team"),
        _ => Some("user"),
    };
    let (budget_id, start_unix_s) = (number(budget, "budget_id"), number(budget, "start_unix_s"));
    let window = budget["window"].as_str();
    let end = window.and_then(Window::from_name).and_then(|window| {
        let zone = zone_or_utc(budget_id, budget["time_zone"].as_str().unwrap_or("UTC"));
        period(window, &zone, start_unix_s).ok()?.end_unix_s
    });
    TierView {
        tier: tier.map(str::to_owned),
        verdict: if budget["mode"] == "shadow" { "counted" } else { "passed" },
        budget_id: Some(budget_id),
        subject: text(budget, "subject"),
        window: window.map(str::to_owned),
        // A budget for good began with the epoch, which says nothing.
        period_start: rfc3339(start_unix_s).filter(|_| start_unix_s != 0),
        limit_usd_now: budget["limit_nanousd"].as_i64().map(format_usd),
        archived: budget["archived"] == true,
        resets_at: end.and_then(rfc3339),
    }
}

fn hold_view(hold: &Value) -> HoldView {
    HoldView {
        held_usd: usd(hold, "held_nanousd"),
        held_at: at(hold, "held_at"),
        expires_at: at(hold, "expires_at"),
        closed_at: at(hold, "closed_at"),
        output_cap_tokens: hold["output_cap_tokens"].as_i64(),
    }
}

fn price_view(price: &Value) -> PriceView {
    PriceView {
        price_id: number(price, "price_id"),
        provider: text(price, "provider"),
        model: text(price, "model"),
        effective_from: at(price, "effective_from"),
        source: text(price, "source"),
        note: text(price, "note"),
        input_usd_per_mtok: usd(price, "input_nanousd_per_mtok"),
        output_usd_per_mtok: usd(price, "output_nanousd_per_mtok"),
    }
}

fn entry_view(entry: &Value) -> EntryView {
    let tokens =
        CLASSES.into_iter().map(|class| (class.trim_end_matches("_tokens").to_owned(), number(entry, class)));
    let unpriced = entry["unpriced"].as_array().into_iter().flatten();
    EntryView {
        entry: number(entry, "entry"),
        cause: text(entry, "cause"),
        recorded_at: at(entry, "recorded_at"),
        cost_usd: usd(entry, "cost_nanousd"),
        held_usd: usd(entry, "held_nanousd"),
        admission: text(entry, "admission"),
        usage_quality: text(entry, "usage_quality"),
        tokens: tokens.filter(|(_, count)| *count != 0).collect(),
        units: counts(&entry["units"]),
        answered_model: some_text(entry, "answered_model"),
        priced_as: text(entry, "priced_as"),
        price_match: text(entry, "price_match"),
        price_flag: text(entry, "price_flag"),
        unpriced: unpriced.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        http_status: number(entry, "http_status"),
        ending: text(entry, "ending"),
        duration_ms: entry["duration_ms"].as_i64(),
        first_byte_ms: entry["first_byte_ms"].as_i64(),
        response_id: some_text(entry, "response_id"),
    }
}
