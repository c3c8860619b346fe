// What every JavaScript client's driver shares; the same protocol as driver.py. Drivers judge nothing.

import { createInterface } from "node:readline";

// One reply of the model as the client has shown it.
export class Reply {
  text = "";
  reasoning = "";
  calls = []; // {id, name, arguments}, arguments as the client gives them: text or parsed
  finish = null;
  usage = null; // {prompt, completion}
  pieces = 0; // in how many parts the text came

  says(text) {
    this.text += text;
    if (text) this.pieces += 1;
  }
}

export function usage(prompt, completion) {
  return prompt == null || completion == null ? null : { prompt, completion };
}

function kinds(error) {
  const names = [];
  for (let kind = error?.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) names.push(kind.name);
  return names;
}

async function converse(make, endpoint, ask) {
  const result = { texts: [], calls: [], replies: [], error: null };
  try {
    const chat = make({ ...endpoint, v1: `${endpoint.root}/v1` }, ask);
    for (const turn of ask.turns) {
      let reply = await chat.say(turn);
      for (;;) {
        result.replies.push(reply);
        result.calls.push(...reply.calls);
        if (!reply.calls.length || !Object.keys(ask.answers).length) break;
        reply = await chat.answer(reply.calls.map((call) => [call, ask.answers[call.name]]));
      }
      result.texts.push(reply.text);
    }
  } catch (error) {
    // Whatever the client throws is what its user sees: it is the result.
    result.error = {
      kinds: kinds(error),
      status: error?.status ?? error?.statusCode ?? null,
      message: String(error?.message ?? error),
    };
  }
  return result;
}

// Answers asks until standard input ends; make(endpoint, ask) gives a conversation with say(text) and answer(pairs).
export async function serve(make) {
  for (const level of ["log", "info", "debug", "warn"]) console[level] = console.error;
  for await (const line of createInterface({ input: process.stdin })) {
    const { endpoint, asks } = JSON.parse(line);
    const results = await Promise.all(asks.map((ask) => converse(make, endpoint, ask)));
    process.stdout.write(JSON.stringify(results) + "\n");
  }
}
