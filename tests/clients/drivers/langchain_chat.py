"""langchain-openai's ChatOpenAI over chat completions. It gives up a stream that is silent for 1.5 s."""

from __future__ import annotations

import contextlib
from typing import Any

from langchain_core.messages import AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from driver import Ask, Call, Endpoint, Reply, serve, usage


class LangChainChat:
    """See ``Chat``."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._ask = ask
        self._history: list[Any] = []
        model = ChatOpenAI(
            base_url=endpoint.v1,
            api_key=endpoint.key,
            model=endpoint.model,
            max_retries=0,
            timeout=60,
            stream_usage=True,
            stream_chunk_timeout=1.5,
        )
        self._model: Any = model.bind_tools(ask.tools) if ask.tools else model

    async def say(self, text: str) -> Reply:
        self._history.append(HumanMessage(text))
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        self._history += [ToolMessage(content, tool_call_id=call.id) for call, content in answers]
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = Reply()
        if self._ask.stream:
            gathered: AIMessageChunk | None = None
            async with contextlib.aclosing(self._model.astream(self._history)) as stream:
                async for chunk in stream:
                    gathered = chunk if gathered is None else gathered + chunk
                    reply.says(chunk.text)
                    if reply.pieces == self._ask.leave_after:
                        return reply
            message: Any = gathered
        else:
            message = await self._model.ainvoke(self._history)
            reply.text = message.text
        self._history.append(message)
        reply.finish = message.response_metadata.get("finish_reason")
        reply.calls = [Call(call["id"], call["name"], call["args"]) for call in message.tool_calls]
        counted = message.usage_metadata or {}
        reply.usage = usage(counted.get("input_tokens"), counted.get("output_tokens"))
        return reply


if __name__ == "__main__":
    serve(LangChainChat)
