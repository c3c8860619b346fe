"""anthropic's SDK over messages."""

from __future__ import annotations

from typing import Any

from anthropic import AsyncAnthropic

from driver import Ask, Call, Endpoint, Reply, serve, usage

#: Bounds nothing here, and has to be sent. A whole reply with more the SDK refuses to wait for.
MAX_TOKENS = {True: 100_000, False: 4096}


class AnthropicChat:
    """See ``Chat``."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._client = AsyncAnthropic(base_url=endpoint.root, api_key=endpoint.key, max_retries=0, timeout=60)
        self._ask = ask
        self._history: list[Any] = []
        self._request: dict[str, Any] = {"model": endpoint.model, "max_tokens": MAX_TOKENS[ask.stream]}
        if ask.tools:
            functions = [tool["function"] for tool in ask.tools]
            self._request["tools"] = [
                {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]} for f in functions
            ]

    async def say(self, text: str) -> Reply:
        self._history.append({"role": "user", "content": text})
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        blocks = [{"type": "tool_result", "tool_use_id": call.id, "content": content} for call, content in answers]
        self._history.append({"role": "user", "content": blocks})
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = Reply()
        if self._ask.stream:
            async with self._client.messages.stream(messages=self._history, **self._request) as stream:
                async for event in stream:
                    if event.type == "text":
                        reply.says(event.text)
                    if reply.pieces == self._ask.leave_after:
                        return reply
                message = await stream.get_final_message()
        else:
            message = await self._client.messages.create(messages=self._history, **self._request)
        for block in message.content:
            if block.type == "text" and not self._ask.stream:
                reply.text += block.text
            elif block.type == "thinking":
                reply.reasoning += block.thinking
            elif block.type == "tool_use":
                reply.calls.append(Call(block.id, block.name, block.input))
        reply.finish = message.stop_reason
        reply.usage = usage(message.usage.input_tokens, message.usage.output_tokens)
        self._history.append({"role": "assistant", "content": message.content})
        return reply


if __name__ == "__main__":
    serve(AnthropicChat)
