"""Ollama's API: the paths below ``/api``.

Streams are lines of JSON (``ndjson``), and streaming is the default. ``options`` and ``fields`` are what chat and
generate have in common; ``shelf`` shows models, ``pull`` fetches them. docs/ollama.md lists every field.
"""
