"""Calls with Cohere's SDK."""

import cohere
from common import headers, main

BODY = {
    "model": "command-r-08-2024",
    "messages": [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}],
    "max_tokens": 64,
}
OLDER = {"model": "command-r-08-2024", "message": "Count to a hundred in nano-dollars.", "max_tokens": 64}


def calls(base_url, org):
    client = cohere.ClientV2(api_key="test", base_url=base_url, timeout=20)
    older = cohere.Client(api_key="test", base_url=base_url, timeout=20)

    def options(name, fake):
        return {"additional_headers": headers(org, name, fake)}

    def chat(name, fake=None):
        return lambda see: client.chat(**BODY, request_options=options(name, fake))

    def stream(name, fake=None):
        def call(see):
            for event in client.chat_stream(**BODY, request_options=options(name, fake)):
                see(event)

        return call

    def older_chat(name, fake=None):
        return lambda see: older.chat(**OLDER, request_options=options(name, fake))

    def older_stream(name, fake=None):
        def call(see):
            for event in older.chat_stream(**OLDER, request_options=options(name, fake)):
                see(event)

        return call

    def embed(of, name, **more):
        texts = ["one", "数え間違い"]
        return lambda see: of.embed(
            model="embed-v4.0", texts=texts, input_type="search_query", request_options=options(name, None), **more
        )

    def rerank(name):
        documents = [f"document {number}" for number in range(120)]
        return lambda see: client.rerank(
            model="rerank-v3.5", query="Which?", documents=documents, request_options=options(name, None)
        )

    return {
        "cached": chat("cached", {"cached_tokens": 9}),
        "older": older_chat("older"),
        "older_stream": older_stream("older_stream", {"chunk_bytes": 11}),
        "embed": embed(client, "embed", embedding_types=["float"]),
        "older_embed": embed(older, "older_embed"),
        "rerank": rerank("rerank"),
        "plain": chat("plain"),
        "stream": stream("stream", {"chunk_bytes": 11}),
        "stream_capped": stream("stream_capped", {"words": 100}),
        "failed": chat("failed", {"status": 400}),
        "denied": chat("denied"),
        "denied_stream": stream("denied_stream"),
    }


main(calls)
