"""openai-python over chat completions."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

from driver import Ask, Call, Chat, Endpoint, Reply, serve, usage


class OpenAIChat:
    """See ``Chat``."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._client = AsyncOpenAI(base_url=endpoint.v1, api_key=endpoint.key, max_retries=0, timeout=60)
        self._ask = ask
        self._history: list[Any] = []
        self._request: dict[str, Any] = {"model": endpoint.model}
        if ask.tools:
            self._request["tools"] = ask.tools

    async def say(self, text: str) -> Reply:
        self._history.append({"role": "user", "content": text})
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        for call, content in answers:
            self._history.append({"role": "tool", "tool_call_id": call.id, "content": content})
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = await (self._stream() if self._ask.stream else self._whole())
        message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
        if reply.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in reply.calls
            ]
        self._history.append(message)
        return reply

    async def _whole(self) -> Reply:
        done = await self._client.chat.completions.create(messages=self._history, **self._request)
        (choice,) = done.choices
        message = choice.message
        return Reply(
            text=message.content,
            reasoning=getattr(message, "reasoning_content", ""),
            calls=[Call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or []],
            finish=choice.finish_reason,
            usage=usage(done.usage.prompt_tokens, done.usage.completion_tokens),
        )

    async def _stream(self) -> Reply:
        reply = Reply()
        stream = await self._client.chat.completions.create(
            messages=self._history, stream=True, stream_options={"include_usage": True}, **self._request
        )
        async for chunk in stream:
            if chunk.usage is not None:
                reply.usage = usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
            for choice in chunk.choices:
                reply.finish = choice.finish_reason or reply.finish
                reply.reasoning += getattr(choice.delta, "reasoning_content", None) or ""
                for part in choice.delta.tool_calls or []:
                    if part.index == len(reply.calls):
                        reply.calls.append(Call(part.id, part.function.name, ""))
                    reply.calls[part.index].arguments += part.function.arguments or ""
                reply.says(choice.delta.content or "")
            if reply.pieces == self._ask.leave_after:
                await stream.close()
                break
        return reply


if __name__ == "__main__":
    chat: type[Chat] = OpenAIChat
    serve(chat)
