"""The served models: each one's settings, the memory that each takes, and the orders to load and unload them.

``model_spec`` is one model as it is served, ``model_memory`` its memory, ``control`` the messages between the HTTP
process, which decides which models are loaded, and the supervisor, which owns their processes. ``load_policy`` is the
decision, pure, and ``model_load`` one model as it sees it. Nothing here starts a process or speaks to a client.
"""
