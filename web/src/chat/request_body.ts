// A conversation's branch as the body of a request to /v1/chat/completions.

import type { AttachedFile, ChatSettings, Message } from "./conversation";

type Body = Record<string, unknown>;

/** The body. `continued`: the last message is a reply that goes on where it ends. Raises SyntaxError for tools that are
 * no JSON. */
export function requestBody(shown: readonly Message[], settings: ChatSettings, continued: boolean): Body {
  const messages: Body[] = shown.map(apiMessage);
  if (settings.system.trim() !== "") messages.unshift({ role: "system", content: settings.system });
  const body: Body = {
    messages,
    stream: true,
    // Prompts of many tokens take their time on a CPU, so the page shows how far the server is.
    return_progress: true,
    // A reply that is stopped has its figures, too.
    timings_per_token: true,
    ...fields(settings),
  };
  if (continued) {
    body.continue_final_message = true;
    body.add_generation_prompt = false;
  }
  return body;
}

function fields(settings: ChatSettings): Body {
  const given: Body = {
    model: settings.model,
    temperature: settings.temperature,
    top_p: settings.topP,
    top_k: settings.topK,
    min_p: settings.minP,
    repeat_penalty: settings.repeatPenalty,
    max_tokens: settings.maxTokens,
    seed: settings.seed,
  };
  const stops = settings.stop.split("\n").filter((line) => line !== "");
  if (stops.length > 0) given.stop = stops;
  if (settings.thinking !== "default") given.enable_thinking = settings.thinking === "on";
  if (settings.tools.trim() !== "") given.tools = JSON.parse(settings.tools);
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}

function apiMessage(message: Message): Body {
  if (message.role === "tool") return { role: "tool", tool_call_id: message.callId ?? "", content: message.content };
  if (message.role === "user") return { role: "user", content: withFiles(message.content, message.files ?? []) };
  const calls = (message.calls ?? []).map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
  return {
    role: "assistant",
    content: message.content,
    ...(message.reasoning ? { reasoning_content: message.reasoning } : {}),
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
  };
}

/** The text with its files before it, each in a code block that no line of it can end. */
export function withFiles(text: string, files: readonly AttachedFile[]): string {
  const shown = files.map((file) => {
    const longest = Math.max(2, ...[...file.text.matchAll(/`{3,}/g)].map((found) => found[0].length));
    const fence = "`".repeat(longest + 1);
    return `${file.name}:\n${fence}\n${file.text.replace(/\n$/, "")}\n${fence}\n\n`;
  });
  return shown.join("") + text;
}
