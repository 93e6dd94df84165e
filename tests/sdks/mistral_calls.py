"""Calls with Mistral's SDK."""

from common import headers, main
from mistralai.client import Mistral

BODY = {
    "model": "mistral-small-latest",
    "messages": [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}],
    "max_tokens": 64,
}


def calls(base_url, org):
    client = Mistral(api_key="test", server_url=base_url, timeout_ms=20_000)

    def chat(name, fake=None):
        return lambda see: client.chat.complete(**BODY, http_headers=headers(org, name, fake))

    def stream(name, fake=None):
        def call(see):
            for event in client.chat.stream(**BODY, http_headers=headers(org, name, fake)):
                see(event)

        return call

    return {
        "plain": chat("plain"),
        "stream": stream("stream", {"chunk_bytes": 11}),
        "stream_capped": stream("stream_capped", {"words": 100}),
        "failed": chat("failed", {"status": 400}),
        "denied": chat("denied"),
        "denied_stream": stream("denied_stream"),
    }


main(calls)
