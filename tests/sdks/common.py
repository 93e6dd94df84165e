"""What the drivers share: running calls, and writing down what they saw.

A driver is started as `python DRIVER BASE_URL ORG CALL...` and makes the calls of these names, one
after the other. It prints a JSON object: for each call, what its SDK gave to the app. The fake
provider's answers follow from the name of the call alone, so that two runs see the same.
"""

import asyncio
import json
import sys


def dump(thing):
    """An object of an SDK as plain JSON, with what it was not sent left out."""
    if hasattr(thing, "model_dump"):
        return {"type": type(thing).__name__, "fields": thing.model_dump(mode="json", exclude_unset=True)}
    if isinstance(thing, bytes):
        return thing.decode("latin-1")
    if isinstance(thing, dict):
        return {str(key): dump(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [dump(value) for value in thing]
    if thing is None or isinstance(thing, (str, int, float, bool)):
        return thing
    return repr(thing)


def failure(error):
    """An exception as an app tells it from others."""
    response = getattr(error, "response", None) if hasattr(error, "operation_name") else None
    if response:
        # Its headers may have more in them on the way.
        response.get("ResponseMetadata", {}).pop("HTTPHeaders", None)
    return {
        "classes": [kind.__name__ for kind in type(error).__mro__ if kind not in (object, BaseException)],
        "status": getattr(error, "status_code", None),
        "code": dump(getattr(error, "code", None)),
        "body": dump(getattr(error, "body", None)),
        "details": dump(getattr(error, "details", None)),
        "response": dump(response),
    }


def seen(make):
    """What a call gave: a result, or chunks and how they ended, or an exception."""
    chunks = []
    try:
        result = make(chunks.append)
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
        return {"result": dump(result), "chunks": dump(chunks)}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the app would get
        return {"failure": failure(error), "chunks": dump(chunks)}


def headers(org, name, fake=None):
    """Who pays, what the answer follows from, and the switches of the fake provider."""
    switches = {f"x-fake-{key.replace('_', '-')}": str(value) for key, value in (fake or {}).items()}
    return {"x-budget-org": org, "x-fake-seed": name, **switches}


def main(calls):
    """Runs a driver. `calls` is a function of base URL and org that gives calls by name."""
    base_url, org, *names = sys.argv[1:]
    by_name = calls(base_url, org)
    unknown = sorted(set(names) - set(by_name))
    if unknown or not names:
        sys.exit(f"unknown calls: {unknown}; known are {sorted(by_name)}")
    print(json.dumps({name: seen(by_name[name]) for name in names}, indent=1, sort_keys=True))
