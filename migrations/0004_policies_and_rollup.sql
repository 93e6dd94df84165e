-- Kinds of budgets, top-ups, rules, overrides, the audit log, and the rollup by hour.
-- Expands only: an older replica goes on working, and takes a shadow or patterned budget for an
-- enforcing one of every model. Make such budgets once every replica is new.

-- enforce refuses; shadow only notes what it would have refused.
alter table budgets add column mode text not null default 'enforce' check (mode in ('enforce', 'shadow'));
-- Whether holds are the true upper bound of what a call may cost.
alter table budgets add column strict boolean not null default false;
-- Which models it covers, as patterns with * and ?, sorted; none means every model.
alter table budgets add column models text[] collate "C" not null default '{}';

drop index budgets_one_per_place_and_window;
create unique index budgets_one_per_place_and_window
    on budgets (org, team, user_name, window_kind, time_zone, mode, models) where archived_at is null;

-- What the period had spent already when the counter was made: spent_nanousd is this plus the sum of
-- the ledger entries that name the counter.
alter table budget_counters add column opening_nanousd bigint not null default 0;
-- Added to the budget's limit in this period only. Here, so that it is read under the counter's lock.
alter table budget_counters add column topped_up_nanousd bigint not null default 0 check (topped_up_nanousd >= 0);

-- The first instant after a budget's period, by its calendar window; infinity for 'total'. A zone that
-- nobody knows (written by hand) counts as UTC.
create function period_end(period_start timestamptz, window_kind text, zone text) returns timestamptz
    language plpgsql stable as $$
begin
    return case window_kind
        when 'total' then timestamptz 'infinity'
        else (period_start at time zone zone + ('1 ' || window_kind)::interval) at time zone zone end;
exception when invalid_parameter_value then
    return period_end(period_start, window_kind, 'UTC');
end $$;

-- Counters made so far began at what their period had spent, which was not kept apart.
update budget_counters k set opening_nanousd = k.spent_nanousd - coalesce((
    select sum(r.cost_nanousd) from llm_requests r cross join jsonb_array_elements(r.counters) c
     where r.org = k.org and (c ->> 0)::bigint = k.budget_id and c ->> 1 = k.subject
       and to_timestamp((c ->> 2)::bigint) = k.period_start), 0);

-- An extra amount for one running period of a budget. Never edited.
create table budget_top_ups (
    org            text collate "C" not null,
    top_up_id      bigint generated always as identity,
    budget_id      bigint not null,
    -- For a '*' budget the team or user it is for; '' otherwise.
    subject        text collate "C" not null,
    period_start   timestamptz not null,
    amount_nanousd bigint not null check (amount_nanousd > 0),
    -- Why, in the operator's words.
    reason         text not null,
    created_at     timestamptz not null default now(),
    primary key (org, top_up_id)
);
create index budget_top_ups_by_budget on budget_top_ups (org, budget_id, period_start);

-- What an org, a team of it or a user of a team may do at all, whatever the budgets say. '*' in the
-- last place applies to each one; a row of their own adds to it and does not replace it.
create table call_rules (
    org            text collate "C" not null check (org not in ('', '*')),
    team           text collate "C" not null default '',
    user_name      text collate "C" not null default '',
    -- The kill switch: every call is refused.
    blocked        boolean not null default false,
    -- Said to whoever is refused by this rule.
    reason         text not null default '',
    -- Patterns of models that may be called; none means every model.
    allowed_models text[] collate "C" not null default '{}',
    -- Patterns of models that may not; they win over the allowed ones.
    denied_models  text[] collate "C" not null default '{}',
    -- On the org's own row: tiers in which a call must find an enforcing budget.
    required_tiers text[] collate "C" not null default '{}' check (required_tiers <@ array['org', 'team', 'user']),
    updated_at     timestamptz not null default now(),
    primary key (org, team, user_name),
    check (user_name = '' or team not in ('', '*'))
);

-- Break-glass: while one is active, no budget refuses the calls of this place, of whatever tier it is.
-- Their cost is recorded as ever. Kill switches and model lists still hold.
create table overrides (
    org         text collate "C" not null check (org not in ('', '*')),
    override_id bigint generated always as identity,
    team        text collate "C" not null default '',
    user_name   text collate "C" not null default '',
    -- Who broke the glass, and why.
    created_by  text not null,
    reason      text not null,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null,
    -- When it was ended early.
    ended_at    timestamptz,
    primary key (org, override_id),
    check (user_name = '' or team not in ('', '*')),
    check (expires_at > created_at)
);
create index overrides_by_scope on overrides (org, team, user_name) where ended_at is null;

create trigger call_rules_bump_version after insert or update or delete on call_rules
    for each row execute function bump_budget_version();
create trigger overrides_bump_version after insert or update or delete on overrides
    for each row execute function bump_budget_version();

-- Every edit to what decides about money: who, when, before, after. Written by triggers, so that an
-- edit by hand is in it too.
create table audit_log (
    org      text collate "C" not null,
    audit_id bigint generated always as identity,
    at       timestamptz not null default now(),
    -- Who, as the API was told (setting purser.actor of the transaction), else the database's user.
    actor    text not null,
    -- insert, update or delete.
    action   text not null,
    -- The table edited.
    object   text not null,
    -- The row before and after; null where there was none.
    before   jsonb,
    after    jsonb,
    primary key (org, audit_id)
);

create function write_audit() returns trigger language plpgsql as $$
begin
    insert into audit_log (org, actor, action, object, before, after)
    values (coalesce(new.org, old.org),
            coalesce(nullif(current_setting('purser.actor', true), ''), session_user),
            lower(tg_op), tg_table_name,
            case when tg_op <> 'INSERT' then to_jsonb(old) end,
            case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'rows of % are only ever added', tg_table_name;
end $$;

create trigger budgets_audit after insert or update or delete on budgets
    for each row execute function write_audit();
create trigger budget_top_ups_audit after insert or update or delete on budget_top_ups
    for each row execute function write_audit();
create trigger call_rules_audit after insert or update or delete on call_rules
    for each row execute function write_audit();
create trigger overrides_audit after insert or update or delete on overrides
    for each row execute function write_audit();
create trigger audit_log_is_append_only before update or delete on audit_log
    for each row execute function refuse_change();

-- Cost tags, in the form {"name": "value"}, fixed by whoever came first: the hold or its settlement.
alter table holds add column tags jsonb not null default '{}';
-- The override that let this call through where a budget would have refused it.
alter table holds add column override_id bigint;
alter table llm_requests add column tags jsonb not null default '{}';
alter table llm_requests add column override_id bigint;
-- What a team called in a month, call by call: the other index finds a payer's calls by time first and
-- would read the whole org's month.
create index llm_requests_by_team on llm_requests (org, team, occurred_at);

-- What each payer spent by UTC hour, provider, model, API and tags. Kept by the tracker in the
-- transaction that inserts the detail; recomputed from the detail with the same result.
create table usage_hourly (
    org                   text collate "C" not null,
    -- First instant of the hour.
    hour                  timestamptz not null,
    team                  text collate "C" not null,
    user_name             text collate "C" not null,
    provider              text collate "C" not null,
    model                 text collate "C" not null,
    api                   text collate "C" not null,
    -- The text of the tags' jsonb, which is in one order for one set of tags.
    tags                  text collate "C" not null,
    requests              bigint not null,
    -- Of these, how many were charged from an estimate because no usage came back.
    estimated_requests    bigint not null,
    input_tokens          bigint not null,
    cached_input_tokens   bigint not null,
    cache_write_5m_tokens bigint not null,
    cache_write_1h_tokens bigint not null,
    output_tokens         bigint not null,
    reasoning_tokens      bigint not null,
    cost_nanousd          bigint not null,
    -- How many calls took how long, by bucket: element i+1 counts durations in [bound i, bound i+1),
    -- bounds as in LATENCY_MS of histogram.rs; percentiles are read from it.
    latency_counts        bigint[] not null,
    primary key (org, hour, team, user_name, provider, model, api, tags)
);
create index usage_hourly_by_payer on usage_hourly (org, team, user_name, hour);

alter table cost_daily_summary add column latency_counts bigint[] not null default '{}';
create index cost_daily_summary_by_payer on cost_daily_summary (org, team, user_name, day);

-- What the ledger's detail still covers. One row.
create table ledger_coverage (
    one_row    boolean primary key default true check (one_row),
    -- Days before this have lost detail to retention and can't be recomputed.
    whole_from date not null
);
insert into ledger_coverage (whole_from) values ('-infinity');

-- Refusals and other verdicts worth counting, by UTC hour. Counted in memory first and written every
-- second or so: a killed backend loses that much of them. Bounded: past a number of different rows an
-- hour, user and model are left out.
create table verdicts_hourly (
    org              text collate "C" not null,
    hour             timestamptz not null,
    team             text collate "C" not null,
    user_name        text collate "C" not null,
    provider         text collate "C" not null,
    model            text collate "C" not null,
    -- denied; shadow_denied: a shadow budget would have; overridden: an override let it through;
    -- unbudgeted: a tier without a budget.
    outcome          text collate "C" not null
                     check (outcome in ('denied', 'shadow_denied', 'overridden', 'unbudgeted')),
    -- Of a denial its reason; of unbudgeted the tier.
    reason           text collate "C" not null,
    -- The budget that refused or would have; 0 when none did.
    budget_id        bigint not null,
    verdicts         bigint not null,
    -- The most that one of them would have held, nano-USD.
    most_needed_nanousd bigint not null,
    -- The latest, as an example to look for.
    last_hold_id     uuid not null,
    last_at          timestamptz not null,
    primary key (org, hour, team, user_name, provider, model, outcome, reason, budget_id)
);

-- How long recent answers were that no cap cut, by payer's team and model. What a call without a cap
-- of its own is expected to need is read from it.
create table output_lengths (
    org        text collate "C" not null,
    team       text collate "C" not null,
    provider   text collate "C" not null,
    model      text collate "C" not null,
    -- Answers by number of output tokens per choice; bounds as in OUTPUT_TOKENS of histogram.rs. Halved when they
    -- become many, so that recent answers weigh more.
    seen       bigint[] not null,
    updated_at timestamptz not null default now(),
    primary key (org, team, provider, model)
);
create index output_lengths_by_update on output_lengths (updated_at);
