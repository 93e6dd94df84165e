"""Calls with Cohere's SDK."""

import cohere
from common import headers, main

BODY = {
    "model": "command-r-08-2024",
    "messages": [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}],
    "max_tokens": 64,
}


def calls(base_url, org):
    client = cohere.ClientV2(api_key="test", base_url=base_url, timeout=20)

    def options(name, fake):
        return {"additional_headers": headers(org, name, fake)}

    def chat(name, fake=None):
        return lambda see: client.chat(**BODY, request_options=options(name, fake))

    def stream(name, fake=None):
        def call(see):
            for event in client.chat_stream(**BODY, request_options=options(name, fake)):
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
