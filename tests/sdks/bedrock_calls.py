"""Calls with AWS's SDK, signed as every one of its calls is."""

import json

import boto3
from botocore.config import Config
from common import headers, main

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": "Count to a hundred in nano-dollars, 数え間違い."}]}]
LIMIT = {"maxTokens": 64}
TOOL = {"toolSpec": {"name": "say", "inputSchema": {"json": {"type": "object", "properties": {}}}}}


def calls(base_url, org):
    def client(name, fake=None):
        made = boto3.client(
            "bedrock-runtime", endpoint_url=base_url, region_name="us-east-1", aws_access_key_id="AKIATEST",
            aws_secret_access_key="secret", config=Config(read_timeout=20),
        )

        def add(request, **_):
            for key, value in headers(org, name, fake).items():
                request.headers[key] = value

        # After the signature, as a hop on the way would.
        made.meta.events.register("before-send.bedrock-runtime", add)
        return made

    def seen(answer):
        # The headers may have more in them on the way.
        sent = answer["ResponseMetadata"].pop("HTTPHeaders")
        return {**answer, "request_id": sent.get("x-amzn-requestid")}

    def converse(name, fake=None, **more):
        return lambda see: seen(
            client(name, fake).converse(modelId=MODEL, messages=MESSAGES, inferenceConfig=LIMIT, **more)
        )

    def converse_stream(name, fake=None, **more):
        def call(see):
            answer = client(name, fake).converse_stream(
                modelId=MODEL, messages=MESSAGES, inferenceConfig=LIMIT, **more
            )
            for event in answer.pop("stream"):
                see(event)

        return call

    claude = json.dumps(
        {
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "How much is it?"}],
        }
    )

    def invoke(see):
        answer = client("invoke").invoke_model(modelId=MODEL, body=claude)
        return json.loads(answer["body"].read())

    def invoke_stream(see):
        answer = client("invoke_stream", {"chunk_bytes": 11}).invoke_model_with_response_stream(
            modelId=MODEL, body=claude
        )
        for event in answer["body"]:
            see(json.loads(event["chunk"]["bytes"]))

    cache = {"cached_tokens": 5, "cache_write_5m_tokens": 3, "cache_write_1h_tokens": 2, "reasoning_tokens": 4}
    tools = {"toolConfig": {"tools": [TOOL]}}
    return {
        "plain": converse("plain", cache),
        "tools": converse("tools", {"tool_call": 1}, **tools),
        "stream": converse_stream("stream", {**cache, "chunk_bytes": 11}),
        "stream_tools": converse_stream("stream_tools", {"tool_call": 1}, **tools),
        "stream_capped": converse_stream("stream_capped", {"words": 100}),
        "stream_error": converse_stream("stream_error", {"fault": "error-in-stream"}),
        "invoke": invoke,
        "invoke_stream": invoke_stream,
        "failed": converse("failed", {"status": 400}),
        "denied": converse("denied"),
        "denied_stream": converse_stream("denied_stream"),
    }


main(calls)
