-- What operators ask about single calls: refusals one by one, and the indexes of their reports.
-- Expands only: an older replica goes on working, and keeps no single refusals.

-- One refusal each, as far as there is room: of an org's refusals so many an hour, the rest is only counted
-- (verdicts_hourly). Kept in memory first and written every second or so.
create table denials (
    org            text collate "C" not null,
    -- As the filter made it.
    hold_id        uuid not null,
    denied_at      timestamptz not null,
    team           text collate "C" not null,
    user_name      text collate "C" not null,
    provider       text collate "C" not null,
    model          text collate "C" not null,
    api            text collate "C" not null,
    reason         text collate "C" not null,
    -- More than one where a filter refused by itself what had just been refused.
    calls          bigint not null check (calls > 0),
    -- The budget that refused; 0 when none did, and then nothing is told below.
    budget_id      bigint not null,
    tier           text collate "C" not null,
    window_kind    text collate "C" not null,
    limit_nanousd  bigint,
    spent_nanousd  bigint,
    held_nanousd   bigint,
    needed_nanousd bigint,
    resets_at      timestamptz,
    -- What the caller was told. No prompt, no key.
    message        text not null,
    primary key (org, hold_id)
);
comment on table denials is 'Refused calls one by one, as far as there is room; verdicts_hourly counts them all.';
comment on column denials.org is 'Organisation; empty where nobody was known to pay.';
comment on column denials.hold_id is 'Id of the hold asked for.';
comment on column denials.denied_at is 'When it was refused.';
comment on column denials.team is 'Team, or empty.';
comment on column denials.user_name is 'User, or empty.';
comment on column denials.provider is 'Who would have billed.';
comment on column denials.model is 'Model asked for.';
comment on column denials.api is 'API spoken.';
comment on column denials.reason is 'Why, as the caller was told: over_budget, blocked and so on.';
comment on column denials.calls is 'How many calls; more than one where a filter repeated a refusal by itself.';
comment on column denials.budget_id is 'Budget that refused; 0 when none did.';
comment on column denials.tier is 'Of that budget: org, team or user; else empty.';
comment on column denials.window_kind is 'Of that budget: day, week, month or total; else empty.';
comment on column denials.limit_nanousd is 'Its limit with top-ups then, nano-USD; null when not told.';
comment on column denials.spent_nanousd is 'What it had spent then, nano-USD; null when not told.';
comment on column denials.held_nanousd is 'What running calls held of it then, nano-USD; null when not told.';
comment on column denials.needed_nanousd is 'What the call would have held, nano-USD; null when not told.';
comment on column denials.resets_at is 'When that budget starts anew; null when it does not, or no budget refused.';
comment on column denials.message is 'What the caller was told; empty where a filter refused by itself.';

-- An org's, a team's and a user's latest refusals. Refusals are rare beside calls, and so are these writes.
create index denials_by_time on denials (org, denied_at, hold_id);
create index denials_by_team on denials (org, team, denied_at, hold_id);
create index denials_by_payer on denials (org, team, user_name, denied_at, hold_id);
-- What retention deletes: rows come in the order of their time, so that a few pages of index do.
create index denials_by_age on denials using brin (denied_at);
