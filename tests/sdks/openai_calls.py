"""Calls with OpenAI's SDK."""

import openai
from common import headers, main

MODEL = "gpt-4o-mini"
MESSAGES = [{"role": "user", "content": "Count to a hundred in nano-dollars, 数え間違い."}]
PARAMETERS = {"type": "object", "properties": {"text": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "say", "description": "Says it.", "parameters": PARAMETERS}}
FLAT_TOOL = {"type": "function", "name": "say", "parameters": PARAMETERS, "strict": False}
USAGE = {"include_usage": True}


class Caller:
    """Makes functions that make calls: an answer is returned, the parts of a stream are shown."""

    def __init__(self, base_url, org):
        self.base_url, self.org = base_url, org
        self.client = openai.OpenAI(api_key="sk-test", base_url=f"{base_url}/v1", timeout=20)
        self.azure = openai.AzureOpenAI(
            api_key="test",
            azure_endpoint=base_url,
            api_version="2024-10-21",
            azure_deployment="prod-gpt-4o-mini",
            timeout=20,
        )

    def call(self, create, name, fake=None, **body):
        def make(see):
            answer = create(extra_headers=headers(self.org, name, fake), **body)
            if not body.get("stream"):
                return answer
            for part in answer:
                see(part)

        return make

    def chat(self, name, of=None, **more):
        create = (of or self.client).chat.completions.create
        body = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 64, **more}
        return self.call(create, name, **body)

    def respond(self, name, **more):
        body = {"model": MODEL, "input": "How much is it?", "instructions": "Be brief.", "max_output_tokens": 64}
        return self.call(self.client.responses.create, name, **body, **more)

    def complete(self, name, **more):
        return self.call(self.client.completions.create, name, model="gpt-3.5-turbo-instruct", **more)

    def embed(self, name, **more):
        return self.call(self.client.embeddings.create, name, model="text-embedding-3-small", **more)

    def abort(self, see):
        """Leaves a stream after its first word; the rest waits at a gate that nobody opens."""
        stream = self.client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, extra_headers=headers(self.org, "abort", {"gate": "never"})
        )
        for chunk in stream:
            see(chunk)
            if chunk.choices[0].delta.content:
                break
        stream.close()
        # The connection is what says that nobody reads on.
        self.client.close()

    def chat_helper(self, see):
        more = {"model": MODEL, "messages": MESSAGES, "extra_headers": headers(self.org, "helper")}
        with self.client.chat.completions.stream(**more) as stream:
            for event in stream:
                see(event.type)
            return stream.get_final_completion()

    def responses_helper(self, see):
        more = {"model": MODEL, "input": "How much?", "extra_headers": headers(self.org, "responses_helper")}
        with self.client.responses.stream(**more) as stream:
            for event in stream:
                see(event.type)
            return stream.get_final_response()

    def raw(self, see):
        """The very bytes."""
        fake = {"chunk_bytes": 7}
        with self.client.chat.completions.with_streaming_response.create(
            model=MODEL, messages=MESSAGES, stream=True, n=2, extra_headers=headers(self.org, "raw", fake)
        ) as response:
            return b"".join(response.iter_bytes())

    async def asynchronous(self, see):
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=f"{self.base_url}/v1", timeout=20) as client:
            stream = await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, extra_headers=headers(self.org, "async")
            )
            async for chunk in stream:
                see(chunk)

    def abort_responses(self, see):
        stream = self.client.responses.create(
            model=MODEL,
            input="How much is it?",
            stream=True,
            extra_headers=headers(self.org, "abort_responses", {"gate": "never"}),
        )
        for event in stream:
            see(event)
            if event.type == "response.output_text.delta":
                break
        stream.close()
        self.client.close()

    def speak(self, see):
        answer = self.client.audio.speech.create(
            model="tts-1", voice="alloy", input="Count in 数え間違い.", extra_headers=headers(self.org, "speech")
        )
        return answer.content

    def media(self):
        images, audio = self.client.images, self.client.audio.transcriptions
        picture = {"model": "gpt-image-1", "prompt": "A nano-dollar."}
        return {
            "image": self.call(images.generate, "image", n=2, **picture),
            "image_stream": self.call(images.generate, "image_stream", stream=True, partial_images=1, **picture),
            "image_by_piece": self.call(
                images.generate, "image_by_piece", model="dall-e-3", prompt="A nano-dollar.", n=3
            ),
            "image_edit": self.call(
                images.edit, "image_edit", image=[("a.png", b"png" * 40), ("b.png", b"png" * 9)], **picture
            ),
            "speech": self.speak,
            "transcript": self.call(audio.create, "transcript", model="gpt-4o-transcribe", file=("a.mp3", b"x" * 777)),
            "transcript_by_second": self.call(
                audio.create, "transcript_by_second", model="whisper-1", file=("a.mp3", b"x" * 777)
            ),
            "background": self.respond("background", background=True),
            "batch": self.call(
                self.client.batches.create,
                "batch",
                input_file_id="file-1",
                endpoint="/v1/chat/completions",
                completion_window="24h",
            ),
        }

    def chats(self):
        chat, tool = self.chat, {"tools": [TOOL], "fake": {"tool_call": 1}}
        return {
            "plain": chat("plain", fake={"cached_tokens": 5, "reasoning_tokens": 3}),
            "two": chat("two", n=2),
            "tools": chat("tools", **tool),
            "stream": chat("stream", stream=True),
            "stream_usage": chat("stream_usage", stream=True, stream_options=USAGE),
            "stream_two": chat("stream_two", stream=True, n=2, fake={"chunk_bytes": 11}),
            "stream_tools": chat("stream_tools", stream=True, **tool),
            "stream_capped": chat("stream_capped", stream=True, fake={"words": 100, "reasoning_tokens": 9}),
            "stream_error": chat("stream_error", stream=True, fake={"fault": "error-in-stream"}),
            "stream_no_done": chat("stream_no_done", stream=True, fake={"fault": "no-done"}),
            "refused": chat("refused", messages=[]),
            "helper": self.chat_helper,
            "raw": self.raw,
            "async": self.asynchronous,
            "abort": self.abort,
            "abort_responses": self.abort_responses,
            "denied": chat("denied"),
            "denied_stream": chat("denied_stream", stream=True),
            "azure": chat("azure", of=self.azure),
            "azure_stream": chat("azure_stream", of=self.azure, stream=True),
            "azure_stream_usage": chat("azure_stream_usage", of=self.azure, stream=True, stream_options=USAGE),
        }

    def others(self):
        respond, complete, embed = self.respond, self.complete, self.embed
        tool = {"tools": [FLAT_TOOL], "fake": {"tool_call": 1}}
        return {
            "models": self.call(self.client.models.list, "models"),
            "embeddings": embed("embeddings", input="one text"),
            "embeddings_float": embed("embeddings_float", input=["one", "two"], encoding_format="float"),
            "embeddings_denied": embed("embeddings_denied", input="one text"),
            "responses": respond("responses", fake={"cached_tokens": 5, "reasoning_tokens": 3}),
            "responses_stream": respond("responses_stream", stream=True),
            "responses_tools": respond("responses_tools", stream=True, **tool),
            "responses_capped": respond("responses_capped", stream=True, fake={"words": 100}),
            "responses_failed": respond("responses_failed", stream=True, fake={"fault": "error-in-stream"}),
            "responses_search": respond("responses_search", fake={"web_searches": 2}),
            "responses_helper": self.responses_helper,
            "responses_denied": respond("responses_denied", stream=True),
            "completions": complete("completions", prompt=["one", "two"], n=2, best_of=3),
            "completions_stream": complete("completions_stream", prompt="one", stream=True),
            "completions_stream_usage": complete(
                "completions_stream_usage", prompt="one", stream=True, stream_options=USAGE
            ),
        }


def calls(base_url, org):
    caller = Caller(base_url, org)
    return {**caller.chats(), **caller.others(), **caller.media()}


main(calls)
