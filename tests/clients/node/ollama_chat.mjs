// ollama's own library over /api/chat.

import { Ollama } from "ollama";
import { Reply, serve, usage } from "./driver.mjs";

class Chat {
  constructor(endpoint, ask) {
    this.client = new Ollama({ host: endpoint.root, headers: { Authorization: `Bearer ${endpoint.key}` } });
    this.ask = ask;
    this.messages = [];
    this.request = { model: endpoint.model, stream: ask.stream };
    if (ask.tools.length) this.request.tools = ask.tools;
  }

  async say(content) {
    this.messages.push({ role: "user", content });
    return this.reply();
  }

  // Ollama's calls have no ids.
  async answer(pairs) {
    for (const [call, content] of pairs) this.messages.push({ role: "tool", tool_name: call.name, content });
    return this.reply();
  }

  async reply() {
    const reply = new Reply();
    const response = await this.client.chat({ ...this.request, messages: this.messages });
    if (this.ask.stream) {
      for await (const part of response) {
        this.take(part, reply);
        if (reply.pieces === this.ask.leave_after) {
          response.abort();
          return reply;
        }
      }
    } else {
      this.take(response, reply);
    }
    const calls = reply.calls.map((call) => ({ function: { name: call.name, arguments: call.arguments } }));
    this.messages.push({ role: "assistant", content: reply.text, ...(calls.length ? { tool_calls: calls } : {}) });
    return reply;
  }

  take(part, reply) {
    reply.says(part.message.content ?? "");
    reply.reasoning += part.message.thinking ?? "";
    for (const call of part.message.tool_calls ?? []) {
      reply.calls.push({ id: "", name: call.function.name, arguments: call.function.arguments });
    }
    if (part.done) {
      reply.finish = part.done_reason;
      reply.usage = usage(part.prompt_eval_count, part.eval_count);
    }
  }
}

serve((endpoint, ask) => new Chat(endpoint, ask));
