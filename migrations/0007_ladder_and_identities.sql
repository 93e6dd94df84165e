-- Ladders of budgets, what they changed in a call, and who is known by what a caller shows.
-- Expands only: an older replica goes on working and knows no ladder: it refuses where a newer one would
-- degrade or clamp.

-- What a budget does before it refuses; read by ladder.rs.
alter table budgets add column ladder jsonb not null default '{}' check (jsonb_typeof(ladder) = 'object');

-- What the verdict changed in the request, so that a repeat of the hold is answered with the same.
-- holds.model is the model that runs.
alter table holds
    add column asked_model       text collate "C",
    add column output_cap_tokens bigint check (output_cap_tokens >= 0),
    add column clamped           boolean not null default false;

alter table llm_requests
    add column asked_model       text collate "C",
    add column clamped_to_tokens bigint;

alter table verdicts_hourly
    drop constraint verdicts_hourly_outcome_check,
    add constraint verdicts_hourly_outcome_check check (outcome in (
        'denied', 'shadow_denied', 'overridden', 'unbudgeted', 'warned', 'degraded', 'clamped',
        'shadow_warned', 'shadow_degraded', 'shadow_clamped'));

-- Who pays for a caller that doesn't say so itself. Never a key, only its fingerprint.
create table identities (
    org         text collate "C" not null check (org not in ('', '*')),
    identity_id bigint generated always as identity,
    kind        text not null check (kind in ('api_key_sha256', 'spiffe_id', 'namespace')),
    value       text collate "C" not null check (value <> ''),
    team        text collate "C" not null default '',
    user_name   text collate "C" not null default '',
    created_at  timestamptz not null default now(),
    archived_at timestamptz,
    primary key (org, identity_id),
    check (kind <> 'api_key_sha256' or value ~ '^[0-9a-f]{64}$'),
    check (user_name = '' or team <> ''),
    check (team <> '*' and user_name <> '*')
);
-- One payer for one claim, over all orgs.
create unique index identities_one_per_claim on identities (kind, value) where archived_at is null;
create index identities_by_number on identities (identity_id);

create trigger identities_audit after insert or update or delete on identities
    for each row execute function write_audit();

-- Backends hear of a change at its commit and read the table again.
create function notify_identities() returns trigger language plpgsql as $$
begin
    perform pg_notify('purser_identities', '');
    return null;
end $$;
create trigger identities_notify after insert or update or delete on identities
    for each statement execute function notify_identities();

comment on column budgets.ladder is 'What it does before it refuses: {"warn_at_percent", "degrade": {"at_percent", "models"}, "clamp": {"floor_tokens"}}, each step optional.';
comment on column holds.model is 'Model that runs the call.';
comment on column holds.asked_model is 'Model asked for, when a cheaper one runs instead; else null.';
comment on column holds.output_cap_tokens is 'Output cap that the verdict wrote into the request, tokens per choice; null when it wrote none.';
comment on column holds.clamped is 'Whether that cap is what a budget could pay.';
comment on column llm_requests.asked_model is 'Model asked for, when a cheaper one ran instead; else null.';
comment on column llm_requests.clamped_to_tokens is 'Output cap, tokens per choice, to which a budget lowered the request''s; else null.';
comment on column verdicts_hourly.outcome is 'denied; warned, degraded, clamped: by an enforcing budget''s ladder; shadow_ and one of these: a shadow budget would have; overridden: an override let it through; unbudgeted: a tier without a budget.';
comment on column verdicts_hourly.budget_id is 'The budget that did it or would have; 0 when none did.';
comment on column verdicts_hourly.most_needed_nanousd is 'The most that one of them would have held, nano-USD; 0 where a filter repeated a denial by itself.';

comment on table identities is 'Who pays for a caller, by what it shows: the fingerprint of its API key, its SPIFFE id, its namespace.';
comment on column identities.org is 'Organisation that pays.';
comment on column identities.identity_id is 'Number of the row.';
comment on column identities.kind is 'api_key_sha256, spiffe_id or namespace.';
comment on column identities.value is 'What the caller shows: 64 hexadecimal digits in lower case, spiffe://domain/path, or a name.';
comment on column identities.team is 'Team that pays, or empty.';
comment on column identities.user_name is 'User who pays, or empty.';
comment on column identities.created_at is 'When it was made known.';
comment on column identities.archived_at is 'When it stopped counting; null while it counts.';
