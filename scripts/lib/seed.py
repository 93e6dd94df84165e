"""Gives the org `demo` generous budgets, unless it has them.

    seed.py BACKEND_URL ADMIN_TOKEN_FILE
"""

import json
import pathlib
import sys
import urllib.error
import urllib.request

BUDGETS = [
    {"org": "demo", "window": "month", "limit_usd": "1000.00"},
    {"org": "demo", "team": "default", "window": "day", "limit_usd": "200.00"},
    {"org": "demo", "team": "default", "user": "*", "window": "day", "limit_usd": "100.00"},
]


def scope(budget):
    """What makes two budgets the same one: whom it binds, and its window."""
    return tuple(budget.get(field) for field in ("org", "team", "user", "window"))


def main(backend_url, token_file):
    token = pathlib.Path(token_file).read_text().strip()

    def call(path, body=None):
        request = urllib.request.Request(
            backend_url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        # The backend is on this machine: no proxy from the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            sys.exit(f"error: {path} answered {error.code}: {error.read().decode(errors='replace')}")

    # A row derived from a `*` budget is not a budget of its own.
    present = {scope(row) for row in call("/v1/budgets?org=demo")["budgets"] if not row.get("default_of")}
    for budget in BUDGETS:
        if scope(budget) not in present:
            call("/v1/budgets", budget)


if __name__ == "__main__":
    main(*sys.argv[1:])
