// Vercel's AI SDK over chat completions, with its provider for compatible servers.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { AiChat } from "./ai_sdk_chat.mjs";
import { serve } from "./driver.mjs";

serve((endpoint, ask) => {
  const provider = createOpenAICompatible({
    name: "tailrace",
    baseURL: endpoint.v1,
    apiKey: endpoint.key,
    includeUsage: true,
  });
  return new AiChat(provider(endpoint.model), ask);
});
