-- Prices per million tokens, in nano-USD. A change of price is a new row; rows are not edited.

create table model_prices (
    provider                       text not null,
    -- As the provider names it, without a date suffix where the price doesn't depend on the date.
    model                          text not null,
    effective_from                 timestamptz not null,
    input_nanousd_per_mtok          bigint not null check (input_nanousd_per_mtok >= 0),
    cached_input_nanousd_per_mtok   bigint not null check (cached_input_nanousd_per_mtok >= 0),
    cache_write_5m_nanousd_per_mtok bigint not null check (cache_write_5m_nanousd_per_mtok >= 0),
    cache_write_1h_nanousd_per_mtok bigint not null check (cache_write_1h_nanousd_per_mtok >= 0),
    output_nanousd_per_mtok         bigint not null check (output_nanousd_per_mtok >= 0),
    reasoning_nanousd_per_mtok      bigint not null check (reasoning_nanousd_per_mtok >= 0),
    -- Whether the model thinks out of sight: then what was seen of a cut answer says little about its cost.
    reasons                         boolean not null,
    primary key (provider, model, effective_from)
);

-- A first handful: the list prices of OpenAI's standard tier. OpenAI charges no cache write for these
-- models, so written tokens cost what input costs; reasoning is billed as output.
insert into model_prices
    (provider, model, effective_from, input_nanousd_per_mtok, cached_input_nanousd_per_mtok,
     cache_write_5m_nanousd_per_mtok, cache_write_1h_nanousd_per_mtok, output_nanousd_per_mtok,
     reasoning_nanousd_per_mtok, reasons)
select 'openai', model, timestamptz '2025-01-01 00:00:00+00', input, cached, input, input, output, output,
       reasons
from (values
    ('gpt-4o-mini',   150000000::bigint,   75000000::bigint,   600000000::bigint, false),
    ('gpt-4o',       2500000000,          1250000000,         10000000000,         false),
    ('gpt-4.1',      2000000000,           500000000,          8000000000,         false),
    ('gpt-4.1-mini',  400000000,           100000000,          1600000000,         false),
    ('gpt-5.4',      2500000000,           250000000,         15000000000,         true),
    ('gpt-5.4-mini',  750000000,            75000000,          4500000000,         true),
    ('gpt-5.4-nano',  200000000,            20000000,          1250000000,         true),
    ('o4-mini',      1100000000,           275000000,          4400000000,         true)
) as list (model, input, cached, output, reasons);
