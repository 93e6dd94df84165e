"""Calls with Anthropic's SDK."""

import anthropic
from common import headers, main

MESSAGES = [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}]
TOOL = {"name": "say", "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}}}


def calls(base_url, org):
    client = anthropic.Anthropic(api_key="sk-test", base_url=base_url, timeout=20)

    def body(name, fake=None, **more):
        return {
            "model": "claude-sonnet-4-5",
            "max_tokens": 64,
            "messages": MESSAGES,
            "system": "Be brief.",
            "extra_headers": headers(org, name, fake),
            **more,
        }

    def create(name, **more):
        def call(see):
            answer = client.messages.create(**body(name, **more))
            if not more.get("stream"):
                return answer
            for event in answer:
                see(event)

        return call

    def helper(name, **more):
        def call(see):
            with client.messages.stream(**body(name, **more)) as stream:
                for event in stream:
                    see(event.type)
                return stream.get_final_message()

        return call

    def abort(see):
        stream = client.messages.create(**body("abort", stream=True, fake={"gate": "never"}))
        for event in stream:
            see(event)
            if event.type == "content_block_delta":
                break
        stream.close()
        client.close()

    async def asynchronous(see):
        async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=base_url, timeout=20) as client:
            async for event in await client.messages.create(**body("async", stream=True)):
                see(event)

    cache = {"cached_tokens": 5, "cache_write_5m_tokens": 3, "cache_write_1h_tokens": 2, "reasoning_tokens": 4}
    return {
        "plain": create("plain", fake=cache),
        "tools": create("tools", tools=[TOOL], fake={"tool_call": 1}),
        "search": create("search", fake={"web_searches": 2}),
        "stream": create("stream", stream=True, fake={**cache, "chunk_bytes": 11}),
        "stream_search": create("stream_search", stream=True, fake={"web_searches": 2}),
        "stream_capped": create("stream_capped", stream=True, fake={"words": 100}),
        "stream_error": create("stream_error", stream=True, fake={"fault": "error-in-stream"}),
        "helper": helper("helper", fake=cache),
        "helper_tools": helper("helper_tools", tools=[TOOL], fake={"tool_call": 1}),
        "async": asynchronous,
        "count": lambda see: client.messages.count_tokens(
            model="claude-sonnet-4-5", messages=MESSAGES, extra_headers=headers(org, "count")
        ),
        "batch": lambda see: client.messages.batches.create(
            requests=[
                {
                    "custom_id": str(number),
                    "params": {"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": MESSAGES},
                }
                for number in range(3)
            ],
            extra_headers=headers(org, "batch"),
        ),
        "refused": create("refused", messages=[]),
        "abort": abort,
        "denied": create("denied"),
        "denied_stream": create("denied_stream", stream=True),
    }


main(calls)
