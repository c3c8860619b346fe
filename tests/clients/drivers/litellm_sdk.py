"""litellm's SDK over chat completions."""

from __future__ import annotations

from typing import Any

import litellm

from driver import Ask, Call, Endpoint, Reply, serve, usage

litellm.telemetry = False
litellm.suppress_debug_info = True


class LiteLLMChat:
    """See ``Chat``."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._ask = ask
        self._history: list[Any] = []
        self._request: dict[str, Any] = {
            "model": f"openai/{endpoint.model}",
            "api_base": endpoint.v1,
            "api_key": endpoint.key,
            "timeout": 60,
            "num_retries": 0,
            "max_retries": 0,
        }
        if ask.tools:
            self._request["tools"] = ask.tools

    async def say(self, text: str) -> Reply:
        self._history.append({"role": "user", "content": text})
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        for call, content in answers:
            self._history.append({"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content})
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = Reply()
        if self._ask.stream:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            stream = await litellm.acompletion(messages=self._history, **options, **self._request)
            chunks = []
            async for chunk in stream:
                chunks.append(chunk)
                reply.says((chunk.choices[0].delta.content or "") if chunk.choices else "")
                if reply.pieces == self._ask.leave_after:
                    await stream.aclose()
                    return reply
            done = litellm.stream_chunk_builder(chunks, messages=self._history)
        else:
            done = await litellm.acompletion(messages=self._history, **self._request)
            reply.text = done.choices[0].message.content or ""
        (choice,) = done.choices
        reply.finish = choice.finish_reason
        reply.reasoning = getattr(choice.message, "reasoning_content", None) or ""
        for call in choice.message.tool_calls or []:
            reply.calls.append(Call(call.id, call.function.name, call.function.arguments))
        reply.usage = usage(done.usage.prompt_tokens, done.usage.completion_tokens)
        self._history.append(choice.message.model_dump(exclude_none=True))
        return reply


if __name__ == "__main__":
    serve(LiteLLMChat)
