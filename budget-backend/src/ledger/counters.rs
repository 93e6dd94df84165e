//! The text that locks and makes counters, for both ways to the database, and why no two writers can
//! wait for each other in a circle.
//!
//! Every writer takes its locks in one order: day locks by key, ledger entries by key, summary rows by
//! primary key (hours, then days), lengths of answers by key, counters by primary key, holds by primary
//! key; counts of verdicts are written by themselves. A lane takes counters and inserts holds; the tracker
//! takes all of them; a repricing all but holds; a top-up takes one counter; the aggregator takes one day
//! lock and its summary rows; a repair takes counters. Counters come late, because lanes wait for them.
//! Counters that don't exist yet are inserted first, sorted, in a transaction of their own: inserting
//! while other counters are locked would take locks out of order. Hot tables carry no foreign keys,
//! which would lock rows in an order of their own.

use super::decide::CounterKey;

/// The key columns of counters, one array each, as SQL wants them.
pub struct KeyColumns<'a> {
    /// `org`.
    pub orgs: Vec<&'a str>,
    /// `budget_id`.
    pub budget_ids: Vec<i64>,
    /// `subject`.
    pub subjects: Vec<&'a str>,
    /// `period_start`, Unix seconds.
    pub periods: Vec<i64>,
}

impl<'a> KeyColumns<'a> {
    /// Splits keys into columns.
    pub fn new(keys: impl IntoIterator<Item = &'a CounterKey>) -> Self {
        let mut columns =
            Self { orgs: Vec::new(), budget_ids: Vec::new(), subjects: Vec::new(), periods: Vec::new() };
        for key in keys {
            columns.orgs.push(&key.org);
            columns.budget_ids.push(key.counter.budget_id);
            columns.subjects.push(&key.counter.subject);
            columns.periods.push(key.counter.period_start_unix_s);
        }
        columns
    }
}

/// Locks counters in key order and reads them: `$1` to `$4` as in [`KeyColumns`].
pub const LOCK_COUNTERS: &str = "
    select c.org, c.budget_id, c.subject, extract(epoch from c.period_start)::bigint as period_unix_s,
           c.spent_nanousd, c.held_nanousd
      from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)
      join budget_counters c on c.org = k.org and c.budget_id = k.budget_id and c.subject = k.subject
                            and c.period_start = to_timestamp(k.period_unix_s)
     order by c.org, c.budget_id, c.subject, c.period_start
       for update of c";

/// The names `n4.name` of the models `s.provider`, `s.model`, as [`crate::pattern::Names`] has them: of the
/// price list only aliases, and of escapes only those of `/` and `:`.
macro_rules! names {
    () => {
        r#"
             cross join lateral (select s.model collate "C" as name union all
                  select a.target_model collate "C" from model_aliases a
                   where a.provider = s.provider and a.alias = s.model
                     and not exists (select from model_prices r where r.provider = s.provider and r.model = s.model)) n0
             cross join lateral (values (n0.name), (regexp_replace(regexp_replace(regexp_replace(n0.name,
                  '%25', '%', 'g'), '%2f', '/', 'gi'), '%3a', ':', 'gi'))) n1 (name)
             cross join lateral (values (n1.name), (regexp_replace(n1.name, '^.*/', ''))) n2 (name)
             cross join lateral (values (n2.name), (regexp_replace(n2.name,
                  '^(us|us-gov|eu|apac|global|jp|au|ca|sa)\.', '', 'i'))) n3 (name)
             cross join lateral (values (n3.name), (regexp_replace(n3.name,
                  '(.)(-\d{4}-\d{2}-\d{2}|[-@]\d{8})$', '\1'))) n4 (name)
        "#
    };
}
pub(crate) use names;

/// What counters that don't exist yet would start from. A budget for some models counts those of the summary's
/// days that go by a name that its patterns match.
macro_rules! openings {
    () => {
        concat!(r"
    select k.org, k.budget_id, k.subject, k.period_start, opening.nanousd, opening.nanousd
      from (select org, budget_id, subject, to_timestamp(period_unix_s) as period_start
              from unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[]) as k (org, budget_id, subject, period_unix_s)) k
      join budgets b on b.org = k.org and b.budget_id = k.budget_id
      cross join lateral (select period_end(k.period_start, b.window_kind, b.time_zone) as at) e
      cross join lateral (
           select date_trunc('hour', k.period_start + interval '1 hour' - interval '1 microsecond', 'UTC') as first_hour,
                  date_trunc('day', k.period_start + interval '1 day' - interval '1 microsecond', 'UTC') as first_day,
                  date_trunc('day', e.at, 'UTC') as last_day, date_trunc('hour', e.at, 'UTC') as last_hour,
                  case b.team when '*' then k.subject else b.team end as team,
                  case b.user_name when '*' then k.subject else b.user_name end as user_name,
                  b.models = '{}' as of_all_models
      ) p
      cross join lateral (
           select coalesce(array_agg(distinct s.provider || chr(31) || s.model), '{}') as models
             from (select array_agg(replace(replace(replace(replace(replace(
                              m, '\', '\\'), '%', '\%'), '_', '\_'), '*', '%'), '?', '_')) as likes
                     from unnest(b.models) m) l
             join (select distinct d.provider, d.model from cost_daily_summary d
                    where not p.of_all_models and d.org = k.org
                      and d.day >= (k.period_start at time zone 'UTC')::date
                      and d.day <= (e.at at time zone 'UTC')::date) s on true
"
        , names!(), r"
            where n4.name ilike any (l.likes)
      ) c
      cross join lateral (
           select least(9223372036854775807,
                   coalesce((select sum(d.cost_nanousd) from cost_daily_summary d
                      where d.org = k.org and d.day >= (p.first_day at time zone 'UTC')::date
                        and d.day < (p.last_day at time zone 'UTC')::date
                        and (p.team = '' or d.team = p.team) and (p.user_name = '' or d.user_name = p.user_name)
                        and (p.of_all_models or d.provider || chr(31) || d.model = any (c.models))), 0)
                 + coalesce((select sum(u.cost_nanousd)
                       from (values (p.first_hour, least(p.first_day, p.last_hour)),
                                    (greatest(p.first_day, p.last_day), p.last_hour)) as h (start, until)
                       join usage_hourly u on u.org = k.org and u.hour >= h.start and u.hour < h.until
                      where (p.team = '' or u.team = p.team) and (p.user_name = '' or u.user_name = p.user_name)
                        and (p.of_all_models or u.provider || chr(31) || u.model = any (c.models))), 0)
                 + coalesce((select sum(r.cost_nanousd)
                       from (values (k.period_start, least(p.first_hour, e.at)),
                                    (greatest(p.first_hour, p.last_hour), e.at)) as m (start, until)
                       join llm_requests r on r.org = k.org and r.occurred_at >= m.start and r.occurred_at < m.until
                      where (p.team = '' or r.team = p.team) and (p.user_name = '' or r.user_name = p.user_name)
                        and (p.of_all_models or r.provider || chr(31) || r.model = any (c.models))), 0))::bigint as nanousd
      ) opening")
    };
}

/// Makes counters that don't exist yet, in key order: `$1` to `$4` as in [`KeyColumns`]. Each starts
/// from what its period has spent already: whole UTC days from the daily summary, the whole hours
/// before and after them from the hourly one, and the rests of hours (in zones that are not whole
/// hours off UTC) from the detail. Calls under way are not in it; they count where their hold was made.
pub const INSERT_COUNTERS: &str = concat!(
    "insert into budget_counters (org, budget_id, subject, period_start, spent_nanousd, opening_nanousd)",
    openings!(),
    " order by k.org, k.budget_id, k.subject, k.period_start on conflict do nothing"
);

/// Reads counters, and what those that don't exist yet would start from, without locking or making any:
/// `$1` to `$4` as in [`KeyColumns`].
pub const READ_COUNTERS: &str = concat!(
    "select o.org, o.budget_id, o.subject, extract(epoch from o.period_start)::bigint as period_unix_s,
            coalesce(c.spent_nanousd, o.opening) as spent_nanousd, coalesce(c.held_nanousd, 0) as held_nanousd,
            coalesce(c.topped_up_nanousd, 0) as topped_up_nanousd
       from (",
    openings!(),
    ") as o (org, budget_id, subject, period_start, opening, spent)
       left join budget_counters c on c.org = o.org and c.budget_id = o.budget_id and c.subject = o.subject
                                  and c.period_start = o.period_start"
);
