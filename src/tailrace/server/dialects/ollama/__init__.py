"""Ollama's API: the paths below ``/api``.

Streams are NDJSON, and streaming is the default. ``options`` and ``shared_fields`` are shared by chat and generate;
``model_list`` lists models, ``pull`` downloads them. docs/ollama.md lists every field.
"""
