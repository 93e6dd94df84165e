"""Calls with Google's SDK."""

from common import headers, main
from google import genai
from google.genai import types

MODEL = "gemini-2.5-flash"
TEXT = "Count to a hundred in nano-dollars, 数え間違い."


def calls(base_url, org):
    client = genai.Client(api_key="test", http_options=types.HttpOptions(base_url=base_url, timeout=20_000))

    def config(name, fake=None, **more):
        options = types.HttpOptions(headers=headers(org, name, fake))
        return types.GenerateContentConfig(max_output_tokens=64, http_options=options, **more)

    def seen(answer):
        # The headers of the answer are part of the object; what is on the way may add to them.
        return answer.model_copy(update={"sdk_http_response": None})

    def generate(name, **more):
        return lambda see: seen(
            client.models.generate_content(model=MODEL, contents=TEXT, config=config(name, **more))
        )

    def stream(name, **more):
        def call(see):
            chunks = client.models.generate_content_stream(model=MODEL, contents=TEXT, config=config(name, **more))
            for chunk in chunks:
                see(seen(chunk))

        return call

    def embed(name, fake=None):
        options = types.HttpOptions(headers=headers(org, name, fake))
        config = types.EmbedContentConfig(http_options=options)
        model, texts = "gemini-embedding-001", ["one", "数え間違い"]
        return lambda see: seen(client.models.embed_content(model=model, contents=texts, config=config))

    say = types.FunctionDeclaration(
        name="say", parameters=types.Schema(type="OBJECT", properties={"text": types.Schema(type="STRING")})
    )
    tools = [types.Tool(function_declarations=[say])]
    classes = {"cached_tokens": 5, "audio_input_tokens": 2, "reasoning_tokens": 4}
    return {
        "embed": embed("embed"),
        "embed_without_usage": embed("embed_without_usage", {"fault": "no-usage"}),
        "plain": generate("plain", fake=classes),
        "two": generate("two", candidate_count=2),
        "tools": generate("tools", tools=tools, fake={"tool_call": 1}),
        "stream": stream("stream", fake={**classes, "chunk_bytes": 11}),
        "stream_tools": stream("stream_tools", tools=tools, fake={"tool_call": 1}),
        "stream_capped": stream("stream_capped", fake={"words": 100}),
        "stream_error": stream("stream_error", fake={"fault": "error-in-stream"}),
        "count": lambda see: seen(
            client.models.count_tokens(
                model=MODEL,
                contents=TEXT,
                config=types.CountTokensConfig(http_options=types.HttpOptions(headers=headers(org, "count"))),
            )
        ),
        "failed": generate("failed", fake={"status": 400}),
        "denied": generate("denied"),
        "denied_stream": stream("denied_stream"),
    }


main(calls)
