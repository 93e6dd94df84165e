-- Budgets: who may spend how much in which calendar window.
-- Migrations go forward only: expand first, contract when no older replica runs.

create table budgets (
    budget_id     bigint generated always as identity,
    -- Scope: org; org/team; org/team/user. '' means "not part of the scope";
    -- '*' in the last place means "each one, unless it has a row of its own".
    org           text collate "C" not null check (org not in ('', '*')),
    team          text collate "C" not null default '',
    user_name     text collate "C" not null default '',
    -- Calendar window, in the budget's own time zone; computed on read, no reset job.
    window_kind   text not null check (window_kind in ('day', 'week', 'month', 'total')),
    -- IANA name, such as Europe/Berlin.
    time_zone     text not null default 'UTC',
    -- What may be spent in one period, in nano-USD (1 USD = 1,000,000,000).
    limit_nanousd bigint not null check (limit_nanousd >= 0),
    created_at    timestamptz not null default now(),
    -- When it stopped counting; its history stays.
    archived_at   timestamptz,
    -- Hot tables are read by org, and may be sharded by it.
    primary key (org, budget_id),
    check (user_name = '' or team not in ('', '*'))
);
comment on table budgets is 'Money limits for an org, a team of it, or a user of a team.';
create index budgets_by_id on budgets (budget_id);
create index budgets_by_scope on budgets (org, team, user_name) where archived_at is null;
-- A request that is sent twice must not leave two budgets, of which a raise would reach only one.
create unique index budgets_one_per_place_and_window
    on budgets (org, team, user_name, window_kind, time_zone) where archived_at is null;

-- Counts the edits to an org's budgets. A hold is decided from budgets read before the counters are
-- locked; the write checks this number under the lock, so that an edit that slipped in between is seen.
create table budget_versions (
    org     text collate "C" primary key,
    version bigint not null
);

create function bump_budget_version() returns trigger language plpgsql as $$
begin
    insert into budget_versions (org, version) values (coalesce(new.org, old.org), 1)
    on conflict (org) do update set version = budget_versions.version + 1;
    return null;
end $$;

-- A trigger, so that an edit by hand counts as well.
create trigger budgets_bump_version after insert or update or delete on budgets
    for each row execute function bump_budget_version();

-- What one budget has spent and holds in one period. The hot rows: every hold and settlement locks
-- them in primary-key order, which is what makes a deadlock impossible.
create table budget_counters (
    org           text collate "C" not null,
    budget_id     bigint not null,
    -- For a '*' budget the team or user counted here; '' otherwise.
    subject       text collate "C" not null,
    -- First instant of the period; the epoch for window 'total'.
    period_start  timestamptz not null,
    -- Sum of the ledger entries that count here.
    spent_nanousd bigint not null default 0,
    -- Sum of the open holds that count here.
    held_nanousd  bigint not null default 0 check (held_nanousd >= 0),
    primary key (org, budget_id, subject, period_start)
)
-- Every hold updates these rows in place: room on the page keeps the updates off the index.
with (fillfactor = 50);
