"""OpenAI's dialects: chat completions and text completions, and what they share."""
