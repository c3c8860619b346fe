"""ollama's own library over ``/api/chat``."""

from __future__ import annotations

import contextlib
from typing import Any

from ollama import AsyncClient

from driver import Ask, Call, Endpoint, Reply, serve, usage


class OllamaChat:
    """See ``Chat``. Ollama's calls have no ids."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        headers = {"Authorization": f"Bearer {endpoint.key}"}
        self._client = AsyncClient(host=endpoint.root, headers=headers, timeout=60)
        self._ask = ask
        self._history: list[Any] = []
        self._request: dict[str, Any] = {"model": endpoint.model, "stream": ask.stream}
        if ask.tools:
            self._request["tools"] = ask.tools

    async def say(self, text: str) -> Reply:
        self._history.append({"role": "user", "content": text})
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        self._history += [{"role": "tool", "tool_name": call.name, "content": content} for call, content in answers]
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = Reply()
        if self._ask.stream:
            async with contextlib.aclosing(await self._client.chat(messages=self._history, **self._request)) as stream:
                async for part in stream:
                    self._take(part, reply)
                    if reply.pieces == self._ask.leave_after:
                        return reply
        else:
            self._take(await self._client.chat(messages=self._history, **self._request), reply)
        calls = [{"function": {"name": call.name, "arguments": call.arguments}} for call in reply.calls]
        self._history.append({"role": "assistant", "content": reply.text, "tool_calls": calls or None})
        return reply

    def _take(self, part: Any, reply: Reply) -> None:
        message = part.message
        reply.says(message.content or "")
        reply.reasoning += message.thinking or ""
        for call in message.tool_calls or []:
            reply.calls.append(Call("", call.function.name, call.function.arguments))
        if part.done:
            reply.finish = part.done_reason
            reply.usage = usage(part.prompt_eval_count, part.eval_count)


if __name__ == "__main__":
    serve(OllamaChat)
