"""Logs of all processes, and the HTTP process's metrics under vLLM's and llama-server's names."""
