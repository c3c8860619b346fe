"""Measures on this machine which settings are the fastest for a model, and the engine loop without the server.

``settings_search`` is ``tailrace tune``, ``probe`` its measuring process, ``engine_bench`` one side of
``tailrace bench --compare``. It stands above the engine, and the engine never imports it.
"""
