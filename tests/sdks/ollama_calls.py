"""Calls with Ollama's SDK."""

import ollama
from common import headers, main

MESSAGES = [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}]


def calls(base_url, org):
    def call(name, fake=None, stream=False, generate=False):
        def make(see):
            limit = {"options": {"num_predict": 64}}
            of = ollama.Client(host=base_url, timeout=20, headers=headers(org, name, fake))
            if generate:
                answer = of.generate(model="llama3.2", prompt="How much is it?", stream=stream, **limit)
            else:
                answer = of.chat(model="llama3.2", messages=MESSAGES, stream=stream, **limit)
            if not stream:
                return answer
            for chunk in answer:
                see(chunk)

        return make

    def embed(name, older=False):
        def make(see):
            of = ollama.Client(host=base_url, timeout=20, headers=headers(org, name))
            if older:
                return of.embeddings(model="llama3.2", prompt="one text")
            return of.embed(model="llama3.2", input=["one", "two"])

        return make

    return {
        "embed": embed("embed"),
        "older_embed": embed("older_embed", older=True),
        "plain": call("plain"),
        "stream": call("stream", {"chunk_bytes": 11}, stream=True),
        "stream_error": call("stream_error", {"fault": "error-in-stream"}, stream=True),
        "generate": call("generate", generate=True),
        "generate_stream": call("generate_stream", stream=True, generate=True),
        "failed": call("failed", {"status": 400}),
        "denied": call("denied"),
        "denied_stream": call("denied_stream", stream=True),
    }


main(calls)
