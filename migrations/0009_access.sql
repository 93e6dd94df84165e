-- Who may use the operators' API: tokens with roles, and keys that keep a create from being done twice.
-- Expands only: an older replica knows the two tokens of its environment alone.

create table tokens (
    token_id     bigint generated always as identity primary key,
    name         text not null check (name <> ''),
    role         text not null check (role in ('admin', 'editor', 'viewer', 'data_plane')),
    org          text collate "C" not null check (org <> ''),
    team         text collate "C" not null default '' check (team <> '*'),
    token_sha256 bytea not null unique check (octet_length(token_sha256) = 32),
    created_at   timestamptz not null default now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    -- Admins and filters serve every org; an editor is of one.
    check (role not in ('admin', 'data_plane') or org = '*'),
    check (role <> 'editor' or org <> '*'),
    check (org <> '*' or team = '')
);
comment on table tokens is 'Who may call, beside the two tokens of the environment.';
comment on column tokens.token_id is 'Number.';
comment on column tokens.name is 'Whose it is, or what for, in the operator''s words.';
comment on column tokens.role is 'admin, editor, viewer or data_plane.';
comment on column tokens.org is 'Organisation it is for; *: every one.';
comment on column tokens.team is 'Team it is for; empty: the whole organisation.';
comment on column tokens.token_sha256 is 'SHA-256 of the token, which is 256 random bits and told once.';
comment on column tokens.created_at is 'When it was made.';
comment on column tokens.expires_at is 'From when on it is worth nothing; null: never.';
comment on column tokens.revoked_at is 'When it was taken back; null while it is good.';
comment on column tokens.last_used_at is 'When it was last used, to about a minute; null: never.';

-- As write_audit, without the hash.
create function write_token_audit() returns trigger language plpgsql as $$
declare
    told_before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - 'token_sha256' - 'last_used_at' end;
    told_after  jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - 'token_sha256' - 'last_used_at' end;
begin
    if told_before = told_after then
        return null;
    end if;
    insert into audit_log (org, actor, action, object, before, after)
    values (coalesce(new.org, old.org),
            coalesce(nullif(current_setting('purser.actor', true), ''), session_user),
            lower(tg_op), tg_table_name, told_before, told_after);
    return null;
end $$;
create trigger tokens_audit after insert or update or delete on tokens
    for each row execute function write_token_audit();

-- Backends hear of a change at its commit and read the table again. That one was used is no change.
create function notify_tokens() returns trigger language plpgsql as $$
begin
    perform pg_notify('purser_tokens', '');
    return null;
end $$;
create trigger tokens_notify after insert or delete or update of name, role, org, team, token_sha256, expires_at, revoked_at
    on tokens for each statement execute function notify_tokens();

create table idempotency_keys (
    caller         text collate "C" not null,
    key            text collate "C" not null,
    request_sha256 bytea not null check (octet_length(request_sha256) = 32),
    status         integer,
    etag           text,
    answer         text,
    made_at        timestamptz not null default now(),
    primary key (caller, key)
);
comment on table idempotency_keys is 'Creates done under an Idempotency-Key, and what was answered; for a day.';
comment on column idempotency_keys.caller is 'Who asked; keys of different callers have nothing to do with each other.';
comment on column idempotency_keys.key is 'The key, as it came.';
comment on column idempotency_keys.request_sha256 is 'SHA-256 of method, path and body: another request under the same key is refused.';
comment on column idempotency_keys.status is 'Status answered; null until then.';
comment on column idempotency_keys.etag is 'ETag answered, if any.';
comment on column idempotency_keys.answer is 'Body answered; null until then.';
comment on column idempotency_keys.made_at is 'When it was done.';
create index idempotency_keys_by_age on idempotency_keys (made_at);

-- Counts the edits to a budget, for If-Match. By trigger, so that an edit by hand counts as well.
alter table budgets add column revision bigint not null default 1;
comment on column budgets.revision is 'Counts its edits from 1 on.';
create function count_revision() returns trigger language plpgsql as $$
begin
    new.revision := old.revision + 1;
    return new;
end $$;
create trigger budgets_count_revision before update on budgets
    for each row execute function count_revision();

-- The audit log is also read by who and by what.
create index audit_log_by_object on audit_log (org, object, audit_id);
