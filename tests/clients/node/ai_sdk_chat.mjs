// A conversation by the AI SDK with any of its providers.

import { generateText, jsonSchema, streamText, tool } from "ai";
import { Reply, usage } from "./driver.mjs";

export class AiChat {
  constructor(model, ask, providerOptions = {}) {
    this.ask = ask;
    this.messages = [];
    this.failure = null;
    this.request = { model, providerOptions, maxRetries: 0, onError: ({ error }) => (this.failure = error) };
    if (ask.tools.length) {
      this.request.tools = Object.fromEntries(
        ask.tools.map(({ function: f }) => [
          f.name,
          tool({ description: f.description, inputSchema: jsonSchema(f.parameters) }),
        ]),
      );
    }
  }

  async say(content) {
    this.messages.push({ role: "user", content });
    return this.reply();
  }

  async answer(pairs) {
    const content = pairs.map(([call, value]) => ({
      type: "tool-result",
      toolCallId: call.id,
      toolName: call.name,
      output: { type: "text", value },
    }));
    this.messages.push({ role: "tool", content });
    return this.reply();
  }

  async reply() {
    const reply = new Reply();
    const leave = new AbortController();
    const request = { ...this.request, messages: this.messages, abortSignal: leave.signal };
    let done;
    if (this.ask.stream) {
      done = streamText(request);
      for await (const part of done.fullStream) {
        if (part.type === "error") throw part.error;
        if (part.type === "reasoning-delta") reply.reasoning += part.text;
        if (part.type === "text-delta") reply.says(part.text);
        if (reply.pieces === this.ask.leave_after) {
          leave.abort();
          return reply;
        }
      }
      if (this.failure) throw this.failure;
    } else {
      done = await generateText(request);
      reply.text = done.text;
      reply.reasoning = done.reasoningText ?? "";
    }
    reply.finish = await done.finishReason;
    const counted = await done.usage;
    reply.usage = usage(counted.inputTokens, counted.outputTokens);
    for (const call of await done.toolCalls) {
      reply.calls.push({ id: call.toolCallId, name: call.toolName, arguments: call.input });
    }
    this.messages.push(...(await done.response).messages);
    return reply;
  }
}
