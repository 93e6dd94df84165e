-- Alerts, whom they are told to, and what became of telling them.

-- The ledger's calls without a verdict, for the alert on them: few, or there is something to tell.
create index llm_requests_fail_open on llm_requests (org, occurred_at) where admission = 'fail_open';

-- The running hour of every org, for the alert on spikes: rows come in the order of their hours.
create index usage_hourly_by_hour on usage_hourly using brin (hour);

create table alerts (
    org          text collate "C" not null,
    alert_id     bigint generated always as identity,
    kind         text not null check (kind in
                     ('budget_threshold', 'budget_forecast', 'unknown_price', 'fail_open', 'spend_anomaly')),
    -- The budget concerned; 0 when none is.
    budget_id    bigint not null,
    -- For a '*' budget the team or user; for an unknown price the provider and the model; '' otherwise.
    subject      text collate "C" not null,
    -- First instant of the budget's period or of the hour; the epoch for what is told once for ever.
    period_start timestamptz not null,
    -- Of a threshold the percentage of the limit; 0 otherwise.
    threshold    integer not null check (threshold >= 0),
    raised_at    timestamptz not null default now(),
    -- What there is to tell, by the names of the API. No prompt, no completion.
    facts        jsonb not null,
    primary key (org, alert_id)
);
comment on table alerts is 'What operators are told, each once.';
-- Once per threshold, window and budget, whichever replica sees it first.
create unique index alerts_once on alerts (org, kind, budget_id, subject, period_start, threshold);

create table webhooks (
    webhook_id  bigint generated always as identity primary key,
    -- Whose alerts it gets; '*' for every org's.
    org         text collate "C" not null check (org <> ''),
    url         text not null,
    -- generic: the alert as JSON; slack: what Slack and those like it take.
    format      text not null check (format in ('generic', 'slack')),
    -- What its deliveries are signed with; told once, when it is made.
    secret      text not null,
    created_at  timestamptz not null default now(),
    archived_at timestamptz
);
comment on table webhooks is 'Receivers of alerts.';
create index webhooks_by_org on webhooks (org) where archived_at is null;

-- As write_audit, without the secret and the URL's path, which is one with some receivers.
create function write_webhook_audit() returns trigger language plpgsql as $$
declare
    told_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - 'secret' - 'url' end;
    told_after  jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - 'secret' - 'url' end;
begin
    insert into audit_log (org, actor, action, object, before, after)
    values (coalesce(new.org, old.org),
            coalesce(nullif(current_setting('purser.actor', true), ''), session_user),
            lower(tg_op), tg_table_name, told_before, told_after);
    return null;
end $$;
create trigger webhooks_audit after insert or update or delete on webhooks
    for each row execute function write_webhook_audit();

create table alert_deliveries (
    org           text collate "C" not null,
    alert_id      bigint not null,
    webhook_id    bigint not null,
    state         text not null default 'waiting' check (state in ('waiting', 'delivered', 'given_up')),
    attempts      integer not null default 0,
    -- When it is tried next; while it is being tried, when others may take it for lost.
    due_at        timestamptz not null default now(),
    last_tried_at timestamptz,
    delivered_at  timestamptz,
    -- Why the last attempt failed.
    last_error    text not null default '',
    primary key (org, alert_id, webhook_id)
);
comment on table alert_deliveries is 'The outbox: one row for each alert and receiver.';
create index alert_deliveries_due on alert_deliveries (due_at) where state = 'waiting';

comment on column alerts.org is 'Organisation.';
comment on column alerts.alert_id is 'Number.';
comment on column alerts.kind is 'budget_threshold, budget_forecast, unknown_price, fail_open or spend_anomaly.';
comment on column alerts.budget_id is 'Budget concerned; 0 when none is.';
comment on column alerts.subject is 'For a * budget the team or user; for an unknown price the provider and the model; else empty.';
comment on column alerts.period_start is 'First instant of the budget''s period or of the hour; the epoch for what is told once for ever.';
comment on column alerts.threshold is 'Of a threshold the percentage of the limit; else 0.';
comment on column alerts.raised_at is 'When it was first seen.';
comment on column alerts.facts is 'What there is to tell, by the names of the API.';

comment on column webhooks.webhook_id is 'Number.';
comment on column webhooks.org is 'Whose alerts it gets; *: every org''s.';
comment on column webhooks.url is 'Where alerts are sent.';
comment on column webhooks.format is 'generic: the alert as JSON; slack: what Slack and those like it take.';
comment on column webhooks.secret is 'What its deliveries are signed with.';
comment on column webhooks.created_at is 'When it was made.';
comment on column webhooks.archived_at is 'When it was taken away; null while it gets alerts.';

comment on column alert_deliveries.org is 'Organisation of the alert.';
comment on column alert_deliveries.alert_id is 'Alert.';
comment on column alert_deliveries.webhook_id is 'Receiver.';
comment on column alert_deliveries.state is 'waiting, delivered or given_up.';
comment on column alert_deliveries.attempts is 'How often it was tried.';
comment on column alert_deliveries.due_at is 'When it is tried next; while it is being tried, when others may take it for lost.';
comment on column alert_deliveries.last_tried_at is 'When it was tried last; null before the first time.';
comment on column alert_deliveries.delivered_at is 'When its receiver accepted it; null until then.';
comment on column alert_deliveries.last_error is 'Why the last attempt failed; empty when it did not.';
