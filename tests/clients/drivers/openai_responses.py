"""openai-python over responses: later turns name the previous response, which the server has stored."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

from driver import Ask, Call, Endpoint, Reply, serve, usage


class ResponsesChat:
    """See ``Chat``."""

    def __init__(self, endpoint: Endpoint, ask: Ask) -> None:
        self._client = AsyncOpenAI(base_url=endpoint.v1, api_key=endpoint.key, max_retries=0, timeout=60)
        self._ask = ask
        self._request: dict[str, Any] = {"model": endpoint.model}
        if ask.tools:
            self._request["tools"] = [{"type": "function", "strict": False, **tool["function"]} for tool in ask.tools]

    async def say(self, text: str) -> Reply:
        return await self._reply(text)

    async def answer(self, answers: list[tuple[Call, str]]) -> Reply:
        return await self._reply(
            [{"type": "function_call_output", "call_id": call.id, "output": content} for call, content in answers]
        )

    async def _reply(self, given: Any) -> Reply:
        reply = Reply()
        if self._ask.stream:
            async with self._client.responses.stream(input=given, **self._request) as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        reply.says(event.delta)
                    if reply.pieces == self._ask.leave_after:
                        return reply
                response: Any = await stream.get_final_response()
        else:
            response = await self._client.responses.create(input=given, **self._request)
            reply.text = response.output_text
        if response.status == "failed":
            raise RuntimeError(response.error.message)
        for item in response.output:
            if item.type == "function_call":
                reply.calls.append(Call(item.call_id, item.name, item.arguments))
            elif item.type == "reasoning":
                reply.reasoning += "".join(part.text for part in (item.content or item.summary))
        reply.finish = response.status
        reply.usage = usage(response.usage.input_tokens, response.usage.output_tokens)
        self._request["previous_response_id"] = response.id
        return reply


if __name__ == "__main__":
    serve(ResponsesChat)
