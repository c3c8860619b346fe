// openai-node over chat completions.

import OpenAI from "openai";
import { Reply, serve, usage } from "./driver.mjs";

class Chat {
  constructor(endpoint, ask) {
    this.client = new OpenAI({ baseURL: endpoint.v1, apiKey: endpoint.key, maxRetries: 0, timeout: 60_000 });
    this.ask = ask;
    this.request = { model: endpoint.model, messages: [] };
    if (ask.tools.length) this.request.tools = ask.tools;
  }

  async say(content) {
    this.request.messages.push({ role: "user", content });
    return this.reply();
  }

  async answer(pairs) {
    for (const [call, content] of pairs) {
      this.request.messages.push({ role: "tool", tool_call_id: call.id, content });
    }
    return this.reply();
  }

  async reply() {
    return this.ask.stream ? this.stream() : this.whole();
  }

  take(message, reply) {
    this.request.messages.push(message);
    for (const call of message.tool_calls ?? []) {
      reply.calls.push({ id: call.id, name: call.function.name, arguments: call.function.arguments });
    }
  }

  async whole() {
    const done = await this.client.chat.completions.create(this.request);
    const [choice] = done.choices;
    const reply = new Reply();
    reply.text = choice.message.content;
    reply.reasoning = choice.message.reasoning_content ?? "";
    reply.finish = choice.finish_reason;
    reply.usage = usage(done.usage.prompt_tokens, done.usage.completion_tokens);
    this.take(choice.message, reply);
    return reply;
  }

  // The library's own accumulator, which throws when a stream ends without a finish_reason.
  async stream() {
    const reply = new Reply();
    const stream = this.client.chat.completions.stream({ ...this.request, stream_options: { include_usage: true } });
    for await (const chunk of stream) {
      const delta = chunk.choices[0]?.delta;
      reply.says(delta?.content ?? "");
      reply.reasoning += delta?.reasoning_content ?? "";
      if (reply.pieces === this.ask.leave_after) {
        stream.abort();
        return reply;
      }
    }
    const done = await stream.finalChatCompletion();
    reply.finish = done.choices[0].finish_reason;
    reply.usage = usage(done.usage?.prompt_tokens, done.usage?.completion_tokens);
    this.take(done.choices[0].message, reply);
    return reply;
  }
}

serve((endpoint, ask) => new Chat(endpoint, ask));
