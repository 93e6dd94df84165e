"""Checks the price list against a price file in the LiteLLM format, by arithmetic of its own.

Imports the file into the database at DATABASE_URL, makes up calls of every model in every tier and
around every size threshold, has the backend price them, and compares each with what the file's own
fields come to, in decimals that are never rounded before the end. Usage:

    community_arithmetic.py BACKEND FILE CALLS_PER_TIER SEED [all]

What an operator set himself is left out, unless "all" is asked for. Prints one JSON line of figures. Exits
with 1 when a cost differs.

Some differences from the file's own arithmetic are meant, since nothing unknown is free: tokens at a rate of
zero pay for no piece (an image costs its price although the answer counts tokens); where nothing that a
call tells costs anything and the model has prices that no call tells enough to apply (per second), the call
is flagged and costs at least the dearest known rates; where a call tells of what such a price is for, it is
flagged and costs no less than the file says; and a recording costs the dearer of its two prices by the second.
Hours of a discount cost what the list says, and are flagged.
"""

import json
import random
import re
import subprocess
import sys
from decimal import ROUND_CEILING, Decimal, localcontext

CLASSES = {
    "input_tokens": "input",
    "cached_input_tokens": "cached_input",
    "cache_write_5m_tokens": "cache_write_5m",
    "cache_write_1h_tokens": "cache_write_1h",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "audio_input_tokens": "audio_input",
    "audio_output_tokens": "audio_output",
    "image_input_tokens": "image_input",
    "image_output_tokens": "image_output",
}
INPUT = [name for name in CLASSES if "output" not in name and name != "reasoning_tokens"]
TIERS = {"flex": "flex", "priority": "priority", "batches": "batch", "ultrafast": "ultrafast",
         "balanced": "balanced", "decisions": "decisions"}
SIZED = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost",
         "cache_creation_input_token_cost")
ABOVE = re.compile(r"_above_(\d+)k_tokens(?:_(" + "|".join(TIERS) + "))?$")
FACTORS = {"us": "regional_processing_uplift_multiplier_us", "eu": "regional_processing_uplift_multiplier_eu",
           "regional": "regional_endpoint_uplift_multiplier"}
UNITS = {"requests": "input_cost_per_request", "images": "output_cost_per_image",
         "input_images": "input_cost_per_image", "input_characters": "input_cost_per_character",
         "output_characters": "output_cost_per_character", "pages": "ocr_cost_per_page",
         "annotated_pages": "annotation_cost_per_page", "citation_tokens": "citation_cost_per_token",
         "code_interpreter_sessions": "code_interpreter_cost_per_session",
         "google_maps_requests": "google_maps_grounding_cost_per_query",
         "text_messages": "input_cost_per_text_message"}
# Charged only where nothing is charged by the token at a rate above zero.
INSTEAD = {"images", "input_images", "audio_seconds", "input_characters", "output_characters"}
CACHED_MEDIA = {"cached_audio_input_tokens": "cache_read_input_audio_token_cost",
                "cached_image_input_tokens": "cache_read_input_image_token_cost",
                "cache_write_audio_input_tokens": "cache_creation_input_audio_token_cost"}


class Entry:
    """One entry of the file."""

    def __init__(self, fields):
        self.fields = fields
        self.inclusive = fields["litellm_provider"] == "xai"

    def plain(self, key):
        value = self.fields.get(key)
        if isinstance(value, bool) or value is None:
            return None
        # What is finer than a nano-USD per million tokens is rounded up to one.
        return Decimal(value).quantize(Decimal("1e-15"), ROUND_CEILING)

    def first(self, *keys):
        return next((rate for rate in map(self.plain, keys) if rate is not None), None)

    def thresholds(self, tier=None):
        found = set()
        for key in self.fields:
            match = ABOVE.search(key)
            if match and key.startswith(SIZED) and match[2] in (None, tier):
                found.add(int(match[1]))
        return sorted(found)

    def sized(self, key, tier, size):
        """A rate in a tier at a size: the tier's, else the plain one; a crossed threshold replaces it."""
        rate = self.first(*([f"{key}_{tier}"] if tier else []), key)
        for thousands in self.thresholds(tier):
            if size > thousands * 1000 or (self.inclusive and size == thousands * 1000):
                above = f"{key}_above_{thousands}k_tokens"
                crossed = self.first(*([f"{above}_{tier}"] if tier else []), above)
                rate = rate if crossed is None else crossed
        return rate

    def rates(self, tier, size):
        """Every class's rate, as the field names have it."""
        ranges = self.fields.get("tiered_pricing")
        if ranges and "input_cost_per_token" in ranges[0]:
            return self.ranged(ranges, size)
        tokens = self.sized("input_cost_per_token", tier, size)
        output = self.sized("output_cost_per_token", tier, size)
        if not output:
            output = self.plain("output_cost_per_image_token") or output
        written = self.sized("cache_creation_input_token_cost", tier, size)
        written = tokens if written is None else written
        hour = self.sized("cache_creation_input_token_cost_above_1hr", tier, size)
        read = self.sized("cache_read_input_token_cost", tier, size)
        if read is None:
            read = self.plain("input_cost_per_token_cache_hit")
        suffix = f"_{tier}" if tier else ""
        reasoning = self.plain(f"output_cost_per_reasoning_token{suffix}")
        if reasoning is None and (not tier or self.plain(f"output_cost_per_token{suffix}") is None):
            reasoning = self.plain("output_cost_per_reasoning_token")

        def media(key, otherwise):
            rate = self.first(f"{key}{suffix}", key)
            return otherwise if rate is None else rate

        return {
            "input": tokens,
            "cached_input": tokens if read is None else read,
            "cache_write_5m": written,
            "cache_write_1h": written if hour is None else hour,
            "output": output,
            "reasoning": output if reasoning is None else reasoning,
            "audio_input": media("input_cost_per_audio_token", tokens),
            "audio_output": media("output_cost_per_audio_token", output),
            "image_input": media("input_cost_per_image_token", tokens),
            "image_output": media("output_cost_per_image_token", output),
        }

    def ranged(self, ranges, size):
        row = next((row for row in ranges if row["range"][0] < size <= row["range"][1]), None)
        if row is None:
            row = ranges[0] if size == 0 else ranges[-1]
        row = Entry({**row, "litellm_provider": ""})
        tokens = row.plain("input_cost_per_token")
        output = row.plain("output_cost_per_token")
        output = self.plain("output_cost_per_token") if output is None else output
        written = row.first("cache_creation_input_token_cost", "input_cost_per_token")
        reasoning = row.plain("output_cost_per_reasoning_token")
        known = {
            "input": tokens,
            "cached_input": row.first("cache_read_input_token_cost", "input_cost_per_token"),
            "cache_write_5m": written,
            "cache_write_1h": row.plain("cache_creation_input_token_cost_above_1hr") or written,
            "output": output,
            "reasoning": output if reasoning is None else reasoning,
        }
        for side, base in (("input", tokens), ("output", output)):
            for medium in ("audio", "image"):
                rate = self.plain(f"{side}_cost_per_{medium}_token")
                known[f"{medium}_{side}"] = base if rate is None else rate
        return known

    def factors(self):
        found = {name: self.plain(field) for name, field in FACTORS.items() if self.plain(field)}
        for name, factor in (self.fields.get("provider_specific_entry") or {}).items():
            if name in ("us", "eu", "fast") and isinstance(factor, Decimal):
                found[name] = max(factor, found.get(name, 0))
        return found

    def units(self):
        found = {name: self.plain(field) for name, field in UNITS.items()}
        mode = self.fields.get("mode")
        if mode == "audio_transcription":
            rates = map(self.plain, ("input_cost_per_second", "output_cost_per_second"))
            found["audio_seconds"] = max((rate for rate in rates if rate is not None), default=None)
        found["search_units" if mode == "rerank" else "queries"] = self.plain("input_cost_per_query")
        searches = self.fields.get("search_context_cost_per_query")
        if searches:
            by_size = Entry({**searches, "litellm_provider": ""})
            found["web_search_requests"] = by_size.plain("search_context_size_medium")
        return {name: rate for name, rate in found.items() if rate is not None}


def calls(entry, unpriced, rng, count):
    """Made-up calls: tier as the answer names it, tier as the fields do, usage, units."""
    known = [name for name, of in CLASSES.items() if of not in unpriced]
    if entry.fields.get("mode") in ("embedding", "rerank", "moderation"):
        known = [name for name in known if name in INPUT]
    tiers = [None] + [tier for tier in TIERS if any(key.endswith(f"_{tier}") for key in entry.fields)]
    edges = entry.thresholds() + [t // 1000 for r in entry.fields.get("tiered_pricing") or []
                                  for t in r.get("range", [])[1:]]
    for tier in tiers:
        for number in range(count + 3 * len(edges)):
            usage = {name: rng.choice([0, 1, rng.randrange(1000), rng.randrange(100_000)]) for name in known}
            if number >= count and known and INPUT[0] in known:
                edge = edges[(number - count) // 3] * 1000 + (number - count) % 3 - 1
                parts = [name for name in INPUT if name in known]
                at = sorted(rng.randrange(edge + 1) for _ in parts[1:])
                usage.update(zip(parts, (high - low for low, high in zip([0] + at, at + [edge]))))
            units = {name: rng.randrange(4) for name in entry.units() if rng.random() < 0.5 and name != "requests"}
            # Told to be none, or told how many: no guess at how much of the media was cached.
            units.update({name: rng.randrange(9) if usage.get("input_tokens") else 0 for name, field in CACHED_MEDIA.items()
                          if entry.plain(field) is not None})
            factor = rng.choice([None, *entry.factors()])
            yield tier, factor, usage, units


def is_unpriceable(entry, unpriced, nanousd):
    """Whether a call costs nothing although its model has prices, none of which calls tell enough to apply."""
    if nanousd or not set(unpriced) - set(CLASSES.values()):
        return False
    known = [of for of in CLASSES.values() if of not in unpriced]
    tiers = [None] + [tier for tier in TIERS if any(key.endswith(f"_{tier}") for key in entry.fields)]
    sizes = [0] + [size * 1000 + 1 for tier in tiers for size in entry.thresholds(tier)]
    return not any(entry.rates(tier, size)[of] for tier in tiers for size in sizes for of in known)


# Words of a price that can't be applied, and the units that tell of it.
TOLD_BY = {"per_second": {"audio_seconds", "input_characters", "output_characters"},
           "pixel": {"images", "input_images"}, "per_image_": {"images", "input_images"},
           "character": {"input_characters", "output_characters"},
           "page": {"pages", "annotated_pages"}, "credit": {"pages", "annotated_pages"},
           "tiered_pricing": {"queries", "search_units", "web_search_requests"}}


def meets(unpriced, units):
    """Whether a call tells of what a price is for that can't be applied."""
    told = {name for name, count in units.items() if count}
    return any(word in name and told & of for name in unpriced for word, of in TOLD_BY.items())


def expected(entry, tier, factor, usage, units):
    size = sum(usage.get(name, 0) for name in INPUT) + sum(units.get(name, 0) for name in CACHED_MEDIA)
    rates = entry.rates(tier, size)
    tokens = sum((rates[CLASSES[name]] * count for name, count in usage.items() if count), Decimal(0))
    tokens += sum((entry.plain(CACHED_MEDIA[name]) * count for name, count in units.items() if name in CACHED_MEDIA),
                  Decimal(0))
    if factor:
        tokens *= entry.factors()[factor]
    prices = entry.units()
    pieces = {"requests": 1} | units if "requests" in prices else units
    by_tokens = tokens > 0
    for name, count in pieces.items():
        if name in prices and not (name in INSTEAD and by_tokens):
            tokens += prices[name] * count
    return int((tokens * 10**9).to_integral_value(ROUND_CEILING))


def main(backend, path, count, seed, everything):
    with open(path, encoding="utf-8") as file:
        entries = json.load(file, parse_float=Decimal, parse_int=Decimal)
    for fields in entries.values():
        for row in fields.get("tiered_pricing") or []:
            if "range" in row:
                row["range"] = [int(edge) for edge in row["range"]]
    run = lambda *arguments, **more: subprocess.run(
        [backend, "prices", *arguments], check=True, stdout=subprocess.PIPE, text=True, **more).stdout
    imported = json.loads(run("import", path, "--json"))
    rng = random.Random(seed)
    asked, wanted = [], []
    for price in imported["prices"]:
        if price["outcome"] == "kept" and not everything:
            continue
        entry = Entry(entries[price["key"]])
        for tier, factor, usage, units in calls(entry, set(price["unpriced"]), rng, count):
            named = "+".join(filter(None, [TIERS.get(tier), factor]))
            asked.append(json.dumps({"provider": price["provider"], "model": price["model"], "usage": usage,
                                     "units": units, "service_tier": named or None}))
            nanousd = expected(entry, tier, factor, usage, units)
            unknown = "unpriceable" if is_unpriceable(entry, price["unpriced"], nanousd) else ""
            if meets(price["unpriced"], units):
                unknown = "met"
            elif "off_peak" in price["unpriced"]:
                unknown = unknown or "discounted"
            wanted.append((price["key"], nanousd, unknown))
    answers = run("cost", input="".join(line + "\n" for line in asked)).splitlines()
    assert len(answers) == len(asked), (len(answers), len(asked))
    differing, models = [], set()
    for question, (key, nanousd, unknown), answer in zip(asked, wanted, map(json.loads, answers)):
        models.add(key)
        if unknown == "unpriceable":
            right = answer["flag"] == "partial" and answer["at_least"] and answer["nanousd"] > 0
        elif unknown == "met":
            # Pieces that are paid as tokens meet nothing; what they cost then is as the file has it.
            right = answer["nanousd"] == nanousd if not answer["flag"] else answer["nanousd"] >= nanousd
        elif unknown == "discounted":
            right = answer["nanousd"] == nanousd and answer["unpriced"] in ([], ["off_peak"])
        else:
            right = answer["nanousd"] == nanousd and not answer["flag"]
        if answer["match"] != "exact" or not right:
            differing.append({"key": key, "asked": json.loads(question), "expected": nanousd, "answered": answer})
    for one in differing[:20]:
        print(json.dumps(one), file=sys.stderr)
    print(json.dumps({"seed": seed, "calls": len(asked), "models": len(models), "differing": len(differing),
                      "models_differing": len({one["key"] for one in differing})}))
    return 1 if differing else 0


if __name__ == "__main__":
    with localcontext() as context:
        context.prec = 60
        sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:] == ["all"]))
