//! The filter's counters and gauges in the proxy's statistics. Labels are written into the names
//! (`name;label=value;`); the proxy's `stats_tags` take them apart.

use std::cell::RefCell;

use purser_protocol::Usage;

use crate::api::PathClass;
use crate::config::Policy;
use crate::exchange::Note;
use crate::hostcalls::{self, Metric};
use crate::identity::WithoutOrg;
use crate::live::Renewals;
use crate::outbox::Tally;
use crate::series::Series;
use crate::verdict::Failure;

/// A metric's id; nothing when the proxy would not define it.
type Id = Option<u32>;

/// The counters that are there from the start, at zero.
const NAMES: [&str; 29] = [
    ALLOWED,
    DEGRADED,
    CLAMPED,
    DENIED,
    DENIED_AGAIN,
    FAILED_OPEN,
    FAILED_CLOSED,
    BACKEND_REJECTED,
    UNKNOWN_REFUSED,
    UPGRADE_REFUSED,
    UNREADABLE_REFUSED,
    TOO_LARGE,
    NOT_REWRITTEN,
    UNREAD_ANSWERS,
    UNREADABLE,
    RECORDED,
    DUPLICATE,
    REJECTED,
    DROPPED,
    RENEWALS_RECORDED,
    RENEWALS_DUPLICATE,
    RENEWALS_FAILED,
    RENEWALS_DROPPED,
    WITHOUT_ORG_REFUSED,
    WITHOUT_ORG_DEFAULT,
    WITHOUT_ORG_LOOKED_UP,
    TAGS_DROPPED,
    REPEATS_LOST,
    NO_BODY,
];

const ALLOWED: &str = "purser_verdicts;outcome=allow;";
const DEGRADED: &str = "purser_verdicts;outcome=degrade;";
const CLAMPED: &str = "purser_verdicts;outcome=clamp;";
const DENIED: &str = "purser_verdicts;outcome=deny;";
const DENIED_AGAIN: &str = "purser_verdicts;outcome=deny_cached;";
const FAILED_OPEN: &str = "purser_failed_open";
const FAILED_CLOSED: &str = "purser_failed_closed";
const BACKEND_REJECTED: &str = "purser_backend_rejected";
const UNKNOWN_REFUSED: &str = "purser_refused;reason=unknown_api;";
const UPGRADE_REFUSED: &str = "purser_refused;reason=upgrade;";
const UNREADABLE_REFUSED: &str = "purser_refused;reason=unreadable;";
const TOO_LARGE: &str = "purser_refused;reason=too_large;";
const NOT_REWRITTEN: &str = "purser_not_rewritten";
const UNREAD_ANSWERS: &str = "purser_unread_answers";
const UNREADABLE: &str = "purser_unmetered;reason=unreadable;";
const RECORDED: &str = "purser_settlements;outcome=recorded;";
const DUPLICATE: &str = "purser_settlements;outcome=duplicate;";
const REJECTED: &str = "purser_settlements;outcome=rejected;";
const DROPPED: &str = "purser_outbox_dropped";
const RENEWALS_RECORDED: &str = "purser_renewals;outcome=recorded;";
const RENEWALS_DUPLICATE: &str = "purser_renewals;outcome=duplicate;";
const RENEWALS_FAILED: &str = "purser_renewals_failed";
const RENEWALS_DROPPED: &str = "purser_renewals_dropped";
const WITHOUT_ORG_REFUSED: &str = "purser_unidentified;outcome=refused;";
const WITHOUT_ORG_DEFAULT: &str = "purser_unidentified;outcome=default_payer;";
const WITHOUT_ORG_LOOKED_UP: &str = "purser_unidentified;outcome=looked_up;";
const TAGS_DROPPED: &str = "purser_tags_dropped";
const REPEATS_LOST: &str = "purser_repeated_denials_lost";
const NO_BODY: &str = "purser_no_body";

/// Ages of an outbox's oldest item, seconds, each with a gauge that counts the outboxes beyond it. Ages
/// themselves can't be added up over workers; whether there is one beyond an age can.
const OVERDUE_S: [u64; 4] = [1, 10, 60, 600];

/// What an outbox looks like from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutboxView {
    /// Items in it.
    pub items: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// Age of the oldest, milliseconds.
    pub oldest_ms: u64,
}

/// All of them, by the ids that the proxy gave them.
pub struct Counters {
    /// In the order of [`NAMES`].
    ids: [Id; NAMES.len()],
    /// In the order of [`PathClass::ALL`].
    unknown_paths: [Id; PathClass::ALL.len()],
    unmetered_paths: [Id; PathClass::ALL.len()],
    /// In the order of [`Failure::CAUSES`].
    causes: [Id; Failure::CAUSES.len()],
    outbox_items: Id,
    outbox_bytes: Id,
    /// In the order of [`OVERDUE_S`].
    outbox_overdue: [Id; OVERDUE_S.len()],
    series: Series,
    max_series: usize,
    used: RefCell<Vec<Used>>,
}

/// The token counters of one team's use of a model, once they are looked up, in the order of the classes.
struct Used {
    model: String,
    team: String,
    ids: [Option<Id>; 9],
}

/// Most pairs of models and teams whose counters are kept at hand; the names of others are put together anew.
const MAX_USED: usize = 32;

impl Counters {
    /// Defines them. Defining one again gives the same counter. `series` are those of this worker so far.
    pub fn define(series: Series, max_series: usize) -> Self {
        let gauge = |name: &str| hostcalls::metric(Metric::Gauge, name).ok();
        let of_path = |class: PathClass, name: &str| counter(&format!("{name};path={};", class.as_str()));
        Self {
            ids: NAMES.map(counter),
            unknown_paths: PathClass::ALL.map(|class| of_path(class, "purser_unknown_api")),
            unmetered_paths: PathClass::ALL
                .map(|class| of_path(class, "purser_unmetered;reason=unknown_api;")),
            causes: Failure::CAUSES.map(|cause| counter(&format!("purser_callout_failures;cause={cause};"))),
            outbox_items: gauge("purser_outbox_items"),
            outbox_bytes: gauge("purser_outbox_bytes"),
            outbox_overdue: OVERDUE_S
                .map(|age_s| gauge(&format!("purser_outbox_overdue;older_than_s={age_s};"))),
            series,
            max_series,
            used: RefCell::default(),
        }
    }

    /// Counts what happened to a request.
    pub fn note(&self, note: &Note) {
        match note {
            Note::Allowed => self.add(ALLOWED, 1),
            Note::Degraded => self.add(DEGRADED, 1),
            Note::Clamped => self.add(CLAMPED, 1),
            Note::Warned(tier, window) => {
                let labels = [("tier", tier.as_str(), false), ("window", window.as_str(), false)];
                add(self.series.counter(usize::MAX, "purser_warnings", &labels, counter), 1);
            }
            Note::Denied => self.add(DENIED, 1),
            Note::DeniedAgain => self.add(DENIED_AGAIN, 1),
            Note::WithoutOrg(WithoutOrg::Refused) => self.add(WITHOUT_ORG_REFUSED, 1),
            Note::WithoutOrg(WithoutOrg::DefaultPayer) => self.add(WITHOUT_ORG_DEFAULT, 1),
            Note::WithoutOrg(WithoutOrg::LookedUp) => self.add(WITHOUT_ORG_LOOKED_UP, 1),
            Note::TagsDropped(tags) => self.add(TAGS_DROPPED, *tags),
            Note::Used { model, team, usage } => {
                self.used(model, team.as_deref().unwrap_or("-"), usage);
            }
            Note::FailedOpen(failure) => {
                self.add(FAILED_OPEN, 1);
                add(at(&self.causes, failure.cause()), 1);
            }
            Note::FailedClosed(failure) => {
                self.add(FAILED_CLOSED, 1);
                add(at(&self.causes, failure.cause()), 1);
            }
            Note::BackendRejected(_) => self.add(BACKEND_REJECTED, 1),
            Note::UnknownApi(class, policy) => {
                add(at(&self.unknown_paths, class.index()), 1);
                match policy {
                    Policy::Deny => self.add(UNKNOWN_REFUSED, 1),
                    Policy::Pass => add(at(&self.unmetered_paths, class.index()), 1),
                }
            }
            Note::UpgradeRefused => self.add(UPGRADE_REFUSED, 1),
            Note::UnreadableRefused => self.add(UNREADABLE_REFUSED, 1),
            Note::TooLarge => self.add(TOO_LARGE, 1),
            Note::NotRewritten => self.add(NOT_REWRITTEN, 1),
            Note::UnreadAnswer => self.add(UNREAD_ANSWERS, 1),
            Note::UnreadablePassed(_) => self.add(UNREADABLE, 1),
            Note::RenewalDropped => self.add(RENEWALS_DROPPED, 1),
            Note::NoBody => self.add(NO_BODY, 1),
        }
    }

    /// Counts tokens by model, team and class.
    fn used(&self, model: &str, team: &str, usage: &Usage) {
        let cache_write = usage.cache_write_5m_tokens.saturating_add(usage.cache_write_1h_tokens);
        let classes = [
            ("input", usage.input_tokens),
            ("cached_input", usage.cached_input_tokens),
            ("cache_write", cache_write),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
            ("audio_input", usage.audio_input_tokens),
            ("audio_output", usage.audio_output_tokens),
            ("image_input", usage.image_input_tokens),
            ("image_output", usage.image_output_tokens),
        ];
        let mut used = self.used.borrow_mut();
        let at = used.iter().position(|known| known.model == model && known.team == team);
        let at = at.unwrap_or_else(|| {
            if used.len() >= MAX_USED {
                used.clear();
            }
            used.push(Used { model: model.to_owned(), team: team.to_owned(), ids: [None; 9] });
            used.len().saturating_sub(1)
        });
        let Some(known) = used.get_mut(at) else { return };
        for ((class, tokens), id) in classes.into_iter().zip(&mut known.ids) {
            if tokens > 0 {
                let look_up = || {
                    let labels = [("model", model, true), ("team", team, true), ("class", class, false)];
                    self.series.counter(self.max_series, "purser_tokens", &labels, counter)
                };
                add(*id.get_or_insert_with(look_up), tokens);
            }
        }
    }

    /// Counts what became of a batch.
    pub fn tally(&self, tally: &Tally) {
        self.add(RECORDED, tally.recorded);
        self.add(DUPLICATE, tally.duplicate);
        self.add(REJECTED, u64::try_from(tally.rejected.len()).unwrap_or(u64::MAX));
    }

    /// Counts what became of renewals.
    pub fn renewals(&self, renewals: Renewals) {
        self.add(RENEWALS_RECORDED, renewals.recorded);
        self.add(RENEWALS_DUPLICATE, renewals.duplicate);
        self.add(RENEWALS_FAILED, renewals.failed);
    }

    /// Counts repeated denials that the backend will not hear of.
    pub fn repeats_lost(&self, lost: u64) {
        self.add(REPEATS_LOST, lost);
    }

    /// Counts a settlement that did not fit into the outbox.
    pub fn outbox_dropped(&self) {
        self.add(DROPPED, 1);
    }

    /// Tells how an outbox looks, when it looked like `before`. All workers share the gauges and each adds
    /// what is its own.
    pub fn outbox(&self, before: OutboxView, now: OutboxView) {
        shift(self.outbox_items, before.items, now.items);
        shift(self.outbox_bytes, before.bytes, now.bytes);
        for (id, age_s) in self.outbox_overdue.iter().zip(OVERDUE_S) {
            let is_beyond = |view: OutboxView| usize::from(view.oldest_ms > age_s.saturating_mul(1_000));
            shift(*id, is_beyond(before), is_beyond(now));
        }
    }

    fn add(&self, name: &str, by: u64) {
        let index = NAMES.iter().position(|known| *known == name);
        add(index.and_then(|index| at(&self.ids, index)), by);
    }
}

fn counter(name: &str) -> Id {
    hostcalls::metric(Metric::Counter, name).ok()
}

fn at(ids: &[Id], index: usize) -> Id {
    ids.get(index).copied().flatten()
}

fn add(counter: Id, by: u64) {
    if let Some(id) = counter {
        // A count that the proxy refuses is not worth failing a request for.
        let _ = hostcalls::count(id, by);
    }
}

fn shift(gauge: Id, before: usize, now: usize) {
    let size = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let by = size(now).saturating_sub(size(before));
    if let Some(id) = gauge
        && by != 0
    {
        // As for counters.
        let _ = hostcalls::shift(id, by);
    }
}
