// @fortaine/fetch-event-source, driven by the rules that NextChat drives it by:
//
// - no headers within 60 s: the request is aborted;
// - a status other than 200 or a type that doesn't start with text/event-stream: an error, its text being the body;
// - an event "[DONE]" or the end of the body finishes the reply; with calls, they are carried out and it asks again;
// - an event that can't be read, or has no choices, is passed over; so is a delta without text;
// - a tool call's fragment with an id begins a new call, one without continues the last;
// - a delta with reasoning is read for nothing else;
// - no text at all is an error, "empty response from server".

import { EventStreamContentType, fetchEventSource } from "@fortaine/fetch-event-source";
import { Reply, serve } from "./driver.mjs";

// What the library needs of a browser.
globalThis.window ??= globalThis;
globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };

const HEADERS_WITHIN = 60_000;

class Failure extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

class Chat {
  constructor(endpoint, ask) {
    this.url = `${endpoint.v1}/chat/completions`;
    this.headers = {
      "Content-Type": "application/json",
      "x-requested-with": "XMLHttpRequest",
      Accept: "application/json",
      Authorization: `Bearer ${endpoint.key}`,
    };
    this.ask = ask;
    this.request = {
      messages: [],
      stream: true,
      model: endpoint.model,
      temperature: 0.5,
      presence_penalty: 0,
      frequency_penalty: 0,
      top_p: 1,
      tools: ask.tools.length ? ask.tools : undefined,
    };
  }

  async say(content) {
    this.request.messages.push({ role: "user", content });
    return this.reply();
  }

  async answer(pairs) {
    // NextChat's message with calls has no content at all.
    const tool_calls = pairs.map(([call]) => ({
      id: call.id,
      type: "function",
      function: { name: call.name, arguments: call.arguments },
    }));
    this.request.messages.push({ role: "assistant", tool_calls });
    for (const [call, content] of pairs) {
      this.request.messages.push({ name: call.name, role: "tool", content, tool_call_id: call.id });
    }
    return this.reply();
  }

  reply() {
    return new Promise((resolve, reject) => {
      const reply = new Reply();
      const controller = new AbortController();
      let finished = false;
      const finish = () => {
        if (finished) return;
        finished = true;
        if (!reply.text && !reply.calls.length) reject(new Error("empty response from server"));
        if (!reply.calls.length) this.request.messages.push({ role: "assistant", content: reply.text });
        resolve(reply);
      };
      const fail = (error) => {
        finished = true;
        reject(error);
      };
      controller.signal.onabort = finish;
      const timer = setTimeout(() => controller.abort(), HEADERS_WITHIN);
      fetchEventSource(this.url, {
        method: "POST",
        body: JSON.stringify(this.request),
        headers: this.headers,
        signal: controller.signal,
        openWhenHidden: true,
        async onopen(response) {
          clearTimeout(timer);
          const type = response.headers.get("content-type");
          if (response.status !== 200 || !type?.startsWith(EventStreamContentType)) {
            fail(new Failure(response.status, await response.clone().text()));
          }
        },
        onmessage: ({ data }) => {
          if (data === "[DONE]" || finished) return finish();
          if (!data?.trim()) return;
          let chunk;
          try {
            chunk = JSON.parse(data);
          } catch {
            return;
          }
          this.read(chunk, reply);
          if (reply.pieces === this.ask.leave_after) controller.abort();
        },
        onclose: finish,
        onerror(error) {
          fail(error);
          throw error;
        },
      }).catch(fail);
    });
  }

  read(chunk, reply) {
    const delta = chunk.choices?.[0]?.delta;
    if (!delta) return;
    const [part] = delta.tool_calls ?? [];
    if (part?.id) {
      reply.calls.push({ id: part.id, name: part.function?.name, arguments: part.function?.arguments });
    } else if (part) {
      reply.calls.at(-1).arguments += part.function?.arguments;
    }
    if (delta.reasoning_content) reply.reasoning += delta.reasoning_content;
    else if (delta.content) reply.says(delta.content);
  }
}

serve((endpoint, ask) => new Chat(endpoint, ask));
