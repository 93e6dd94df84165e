-- Holds and the ledger. No foreign keys on hot tables: they would lock rows in an order of their own.

create table holds (
    org          text collate "C" not null,
    -- UUIDv7 made by the filter.
    hold_id      uuid not null,
    team         text collate "C" not null,
    user_name    text collate "C" not null,
    provider     text collate "C" not null,
    model        text collate "C" not null,
    api          text collate "C" not null,
    -- A closed row stays as a tombstone: a hold that arrives after its own void, settlement or
    -- expiry finds it and is not opened.
    state        text not null check (state in ('open', 'settled', 'voided', 'expired')),
    -- What was reserved; stays when the hold closes.
    held_nanousd bigint not null check (held_nanousd >= 0),
    -- The counters this hold counts in, fixed when it was made:
    -- [[budget_id, subject, period start in Unix seconds], ...].
    counters     jsonb not null,
    -- The database's clock at the decision; it fixes the periods and the day of the rollup.
    held_at      timestamptz not null,
    expires_at   timestamptz not null,
    closed_at    timestamptz,
    primary key (org, hold_id)
);
create index holds_open_by_expiry on holds (expires_at) where state = 'open';
create index holds_closed_by_age on holds (closed_at) where state <> 'open';

-- The ledger: one row per charge or correction, only ever inserted. Entry 0 is the first charge of an
-- id; later entries are signed corrections of it; they sum to what the call cost.
-- Partitioned by the time inside the UUIDv7, so that (org, hold_id, entry) is unique over all of them.
create table llm_requests (
    org                   text collate "C" not null,
    hold_id               uuid not null,
    entry                 integer not null check (entry >= 0),
    team                  text collate "C" not null,
    user_name             text collate "C" not null,
    provider              text collate "C" not null,
    api                   text collate "C" not null,
    -- The model sent upstream, and the one the answer named (it wins when priced).
    model                 text collate "C" not null,
    answered_model        text,
    -- The price list row used, and how it was found: exact, undated, ceiling.
    priced_as             text not null,
    price_match           text not null,
    price_effective_from  timestamptz,
    -- The provider's id of the answer, to find the call on its invoice.
    response_id           text,
    -- Signed in corrections.
    cost_nanousd          bigint not null,
    -- What had been reserved for it; 0 when there was no hold.
    held_nanousd          bigint not null,
    -- Where the amount comes from: settled, estimated (no usage came back), expired (no settlement came).
    cause                 text not null check (cause in ('settled', 'estimated', 'expired')),
    -- held or fail_open.
    admission             text not null,
    -- exact, at_least, none.
    usage_quality         text not null,
    input_tokens          bigint not null,
    cached_input_tokens   bigint not null,
    cache_write_5m_tokens bigint not null,
    cache_write_1h_tokens bigint not null,
    output_tokens         bigint not null,
    reasoning_tokens      bigint not null,
    stream                boolean not null,
    -- The upstream's status; 0 when no answer came.
    http_status           integer not null,
    -- complete, client_gone, upstream_cut; unknown for an expired hold.
    ending                text not null,
    duration_ms           bigint,
    first_byte_ms         bigint,
    -- The instant whose day and periods this counts in: the hold's decision, else the request's time.
    occurred_at           timestamptz not null,
    recorded_at           timestamptz not null default now(),
    -- As in holds: where it counts.
    counters              jsonb not null,
    primary key (org, hold_id, entry)
) partition by range (hold_id);

-- Takes ids whose time no partition covers (a filter's clock is far off), so that they never fail a batch.
create table llm_requests_default partition of llm_requests default;

-- A payer's recent calls, and the start value of a new budget's counter.
create index llm_requests_by_payer on llm_requests (org, occurred_at, team, user_name);

-- What each payer spent by UTC day, provider, model and API. Kept by the tracker in the transaction
-- that inserts the detail; may be recomputed from the detail at any time with the same result.
create table cost_daily_summary (
    org                   text collate "C" not null,
    day                   date not null,
    team                  text collate "C" not null,
    user_name             text collate "C" not null,
    provider              text collate "C" not null,
    model                 text collate "C" not null,
    api                   text collate "C" not null,
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
    primary key (org, day, team, user_name, provider, model, api)
);

-- Settlements that can't be recorded, with the reason. Never retried; somebody has to look.
create table quarantined_settlements (
    org         text collate "C" not null,
    hold_id     uuid not null,
    received_at timestamptz not null default now(),
    reason      text not null,
    -- The item, as text; carries no prompt and no completion.
    item        text not null,
    primary key (org, hold_id, received_at)
);
