-- Prices with every class, tier and unit; aliases; and what the ledger says of how a call was priced.
-- Expands only: an older replica goes on working and prices by the first six classes alone.

-- One price is one row, and rows are only ever added: of those in force the latest applies, and of several
-- with the same start the one added last. So a mistake is put right by one more row.
alter table model_prices add column price_id bigint generated always as identity;
alter table model_prices drop constraint model_prices_pkey;
alter table model_prices add primary key (price_id);
create index model_prices_by_model on model_prices (provider, model, effective_from, price_id);

-- Null: as text, input or output.
alter table model_prices
    add column audio_input_nanousd_per_mtok  bigint check (audio_input_nanousd_per_mtok >= 0),
    add column audio_output_nanousd_per_mtok bigint check (audio_output_nanousd_per_mtok >= 0),
    add column image_input_nanousd_per_mtok  bigint check (image_input_nanousd_per_mtok >= 0),
    add column image_output_nanousd_per_mtok bigint check (image_output_nanousd_per_mtok >= 0),
    -- Rates of size and service tiers, multipliers and units; read strictly, by pricing/terms.rs.
    add column terms      jsonb not null default '{}' check (jsonb_typeof(terms) = 'object'),
    -- What of it has no known price, by name: a class, a unit, a condition. Where one occurs, the dearest
    -- known rate is charged and the call is flagged.
    add column unpriced   text[] not null default '{}',
    add column source     text not null default 'operator'
        check (source in ('migration', 'catalogue', 'import', 'operator')),
    -- Where the figures are from.
    add column note       text not null default '',
    add column created_at timestamptz not null default now();

-- The list that came with the schema, as far as nobody has changed it.
update model_prices p set source = 'migration'
  from (values ('gpt-4o-mini', 150000000::bigint, 600000000::bigint), ('gpt-4o', 2500000000, 10000000000),
               ('gpt-4.1', 2000000000, 8000000000), ('gpt-4.1-mini', 400000000, 1600000000),
               ('gpt-5.4', 2500000000, 15000000000), ('gpt-5.4-mini', 750000000, 4500000000),
               ('gpt-5.4-nano', 200000000, 1250000000), ('o4-mini', 1100000000, 4400000000))
       as seeded (model, input, output)
 where p.provider = 'openai' and p.effective_from = '2025-01-01 00:00:00+00' and p.model = seeded.model
   and p.input_nanousd_per_mtok = seeded.input and p.output_nanousd_per_mtok = seeded.output;

create trigger model_prices_are_append_only before update or delete on model_prices
    for each row execute function refuse_change();

-- Names that stand for others: deployments, inference profiles, names of one's own.
create table model_aliases (
    provider        text not null check (provider <> ''),
    alias           text not null check (alias <> ''),
    target_provider text not null check (target_provider <> ''),
    target_model    text not null check (target_model not in ('', '*')),
    updated_at      timestamptz not null default now(),
    primary key (provider, alias)
);

-- Backends hear of a change at its commit and read the list again.
create function notify_prices() returns trigger language plpgsql as $$
begin
    perform pg_notify('purser_prices', '');
    return null;
end $$;
create trigger model_prices_notify after insert on model_prices
    for each statement execute function notify_prices();
create trigger model_aliases_notify after insert or update or delete on model_aliases
    for each statement execute function notify_prices();

-- On the org's own rule: what becomes of calls to models without a price of their own.
alter table call_rules add column unknown_models text not null default 'ceiling'
    check (unknown_models in ('ceiling', 'deny')),
    add check (unknown_models = 'ceiling' or (team = '' and user_name = ''));

alter table llm_requests
    add column audio_input_tokens  bigint not null default 0,
    add column audio_output_tokens bigint not null default 0,
    add column image_input_tokens  bigint not null default 0,
    add column image_output_tokens bigint not null default 0,
    add column units               jsonb not null default '{}',
    add column service_tier        text,
    add column price_id            bigint,
    add column price_flag          text not null default '' check (price_flag in ('', 'ceiling', 'partial')),
    add column unpriced            text[] not null default '{}',
    add column reported_cost_nanousd bigint,
    drop constraint llm_requests_cause_check,
    add constraint llm_requests_cause_check check (cause in ('settled', 'estimated', 'expired', 'repriced'));
create index llm_requests_flagged on llm_requests (org, occurred_at) where price_flag <> '';

alter table usage_hourly
    add column audio_input_tokens  bigint not null default 0,
    add column audio_output_tokens bigint not null default 0,
    add column image_input_tokens  bigint not null default 0,
    add column image_output_tokens bigint not null default 0;
alter table cost_daily_summary
    add column audio_input_tokens  bigint not null default 0,
    add column audio_output_tokens bigint not null default 0,
    add column image_input_tokens  bigint not null default 0,
    add column image_output_tokens bigint not null default 0;

comment on table model_prices is 'Price list. A change of price is a new row; rows are not edited.';
comment on column model_prices.price_id is 'Number of this version; a later one wins over another of the same start.';
comment on column model_prices.model is 'Model as the provider names it, without a date suffix where the price doesn''t depend on it; * for the provider''s configured rate of unknown models.';
comment on column model_prices.audio_input_nanousd_per_mtok is 'Audio in the input, nano-USD per million tokens; null: as input.';
comment on column model_prices.audio_output_nanousd_per_mtok is 'Audio in the output, nano-USD per million tokens; null: as output.';
comment on column model_prices.image_input_nanousd_per_mtok is 'Images in the input, nano-USD per million tokens; null: as input.';
comment on column model_prices.image_output_nanousd_per_mtok is 'Images in the output, nano-USD per million tokens; null: as output.';
comment on column model_prices.terms is 'Rates above input sizes and in service tiers, multipliers (millionths), units (nano-USD per million).';
comment on column model_prices.unpriced is 'Classes, units and conditions without a known price.';
comment on column model_prices.source is 'Who added it: migration, catalogue, import or operator. Catalogue and import leave what an operator added.';
comment on column model_prices.note is 'Where the figures are from.';
comment on column model_prices.created_at is 'When it was added.';

comment on table model_aliases is 'Names that stand for models of the price list; set by operators.';
comment on column model_aliases.provider is 'Who bills, as the route says.';
comment on column model_aliases.alias is 'The name that calls use.';
comment on column model_aliases.target_provider is 'Provider of the price to use.';
comment on column model_aliases.target_model is 'Model of the price to use.';
comment on column model_aliases.updated_at is 'When it was last set.';

comment on column call_rules.unknown_models is 'On the org''s own row: ceiling charges models without a price at the dearest known rate; deny refuses them.';

comment on column llm_requests.price_match is 'How the price was found: exact, alias, undated, configured, ceiling, or reported by the provider.';
comment on column llm_requests.cause is 'Where the amount comes from: settled; estimated: no usage came back; expired: no settlement came; repriced: a price was put right afterwards.';
comment on column llm_requests.audio_input_tokens is 'Audio in the input, tokens.';
comment on column llm_requests.audio_output_tokens is 'Audio in the output, tokens.';
comment on column llm_requests.image_input_tokens is 'Images in the input, tokens.';
comment on column llm_requests.image_output_tokens is 'Images in the output, tokens.';
comment on column llm_requests.units is 'What costs by the piece, {"name": count}.';
comment on column llm_requests.service_tier is 'Tier, speed or traffic class the answer named; null when it named none.';
comment on column llm_requests.price_id is 'Version of the price used (model_prices); null for a ceiling or a reported cost.';
comment on column llm_requests.price_flag is 'Empty: priced by a known price; ceiling: by that of an unknown model; partial: in part, see unpriced.';
comment on column llm_requests.unpriced is 'What occurred on this call and had no known price.';
comment on column llm_requests.reported_cost_nanousd is 'Cost that the provider itself reported, nano-USD; null when it reported none.';

comment on column usage_hourly.audio_input_tokens is 'Audio in the input, tokens.';
comment on column usage_hourly.audio_output_tokens is 'Audio in the output, tokens.';
comment on column usage_hourly.image_input_tokens is 'Images in the input, tokens.';
comment on column usage_hourly.image_output_tokens is 'Images in the output, tokens.';
comment on column cost_daily_summary.audio_input_tokens is 'Audio in the input, tokens.';
comment on column cost_daily_summary.audio_output_tokens is 'Audio in the output, tokens.';
comment on column cost_daily_summary.image_input_tokens is 'Images in the input, tokens.';
comment on column cost_daily_summary.image_output_tokens is 'Images in the output, tokens.';
