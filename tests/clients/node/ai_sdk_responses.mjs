// Vercel's AI SDK over responses, which is what its provider for OpenAI speaks by itself.

import { createOpenAI } from "@ai-sdk/openai";
import { AiChat } from "./ai_sdk_chat.mjs";
import { serve } from "./driver.mjs";

serve((endpoint, ask) => {
  const provider = createOpenAI({ baseURL: endpoint.v1, apiKey: endpoint.key });
  // It shows summaries of thoughts, and asks for them for models that it knows to think.
  const openai = { reasoningSummary: "auto", forceReasoning: true };
  return new AiChat(provider(endpoint.model), ask, { openai });
});
