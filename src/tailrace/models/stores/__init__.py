"""The stores of models that other programs have filled, and tailrace's own. Nothing is copied, and nothing is written.

A module reads one store: ``own_store``, ``models_folder``, ``hub_cache``, ``ollama_store``, ``lm_studio`` and
``llama_cache``. Each gives ``StoreContents``: its models, and what couldn't be read. One broken file hides no other.
``all_stores`` joins them, and finds the model of a reference. Only names and sizes are read here, and Ollama's
manifests; headers are read by ``header_cache``.
"""
