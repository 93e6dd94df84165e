"""An app that knows of OpenAI's SDK and of nothing else: no base URL, no header, no proxy.

    unmodified_app.py CALL...

It prints a JSON object: for each call, what the app got.
"""

import http.client
import json
import ssl
import sys

import openai
from common import dump, failure

MODEL = "gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Count to a hundred in nano-dollars."}]


def plain():
    answer = openai.OpenAI().chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=64)
    return {"text": answer.choices[0].message.content, "tokens": dump(answer.usage)}


def stream():
    answer = openai.OpenAI().chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=64, stream=True
    )
    chunks = list(answer)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return {"text": text, "usage_shown": any(chunk.usage for chunk in chunks)}


def azure():
    client = openai.AzureOpenAI(
        azure_endpoint="https://acme.openai.azure.com", azure_deployment=MODEL, api_key="test", api_version="2024-10-21"
    )
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_completion_tokens=64)
    return {"text": answer.choices[0].message.content}


def models():
    return sorted(model.id for model in openai.OpenAI().models.list())


def other():
    """A host that has nothing to do with LLMs."""
    connection = http.client.HTTPSConnection("shop.example", timeout=20, context=ssl.create_default_context())
    connection.request("GET", "/v1/models")
    certificate = connection.sock.getpeercert(binary_form=True).hex()
    body = connection.getresponse().read().decode()
    connection.close()
    return {"certificate": certificate, "body": body}


def seen(call):
    try:
        return call()
    except openai.OpenAIError as error:
        return {"failure": failure(error)}


CALLS = {call.__name__: call for call in (plain, stream, azure, models, other)}
print(json.dumps({name: seen(CALLS[name]) for name in sys.argv[1:]}))
