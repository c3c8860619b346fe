"""OpenAI's dialects: chat completions, text completions and embeddings, with their shared fields and replies."""
