"""llama-index's OpenAILike over chat completions."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from driver import Ask, Call, Endpoint, Reply, serve, usage


def weather(city: str) -> str:
    """The weather in a city."""
    raise AssertionError("the driver answers calls itself")


class LlamaIndexChat:
    """See ``Chat``. Its tools are functions, so the one that is asked for has to be the one above."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._ask = ask
        self._history: list[ChatMessage] = []
        self._tools = [FunctionTool.from_defaults(weather)] if ask.tools else []
        self._model = OpenAILike(
            api_base=endpoint.v1,
            api_key=endpoint.key,
            model=endpoint.model,
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=200_000,
            max_retries=0,
            timeout=60,
        )

    async def say(self, text: str) -> Reply:
        self._history.append(ChatMessage(role=MessageRole.USER, content=text))
        return await self._reply()

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        for call, content in answers:
            extra = {"tool_call_id": call.id}
            self._history.append(ChatMessage(role=MessageRole.TOOL, content=content, additional_kwargs=extra))
        return await self._reply()

    async def _reply(self) -> Reply:
        reply = Reply()
        options: dict[str, Any] = {"chat_history": self._history}
        if self._ask.stream:
            last: Any = None
            options["stream_options"] = {"include_usage": True}
            if self._tools:
                stream = await self._model.astream_chat_with_tools(self._tools, **options)
            else:
                del options["chat_history"]
                stream = await self._model.astream_chat(self._history, **options)
            async for last in stream:
                reply.says(last.delta or "")
                if reply.pieces == self._ask.leave_after:
                    await stream.aclose()
                    return reply
        else:
            if self._tools:
                last = await self._model.achat_with_tools(self._tools, **options)
            else:
                last = await self._model.achat(self._history)
            reply.text = last.message.content or ""
        self._history.append(last.message)
        if self._tools:
            calls = self._model.get_tool_calls_from_response(last, error_on_no_tool_call=False)
            reply.calls = [Call(call.tool_id, call.tool_name, call.tool_kwargs) for call in calls]
        counted = last.additional_kwargs
        reply.usage = usage(counted.get("prompt_tokens"), counted.get("completion_tokens"))
        return reply


if __name__ == "__main__":
    serve(LlamaIndexChat)
