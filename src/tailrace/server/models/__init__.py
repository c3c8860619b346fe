"""The served models, as the HTTP process has them.

``model_service`` is one model: its engines' client and what depends on it. ``model_directory`` finds the model that a
request names. ``model_turn`` is a request's use of a model, and the gate that lets it begin; ``model_scheduler`` is
that gate where several models are served. ``engine_hub`` hands each engine's connection to its model.
``supervisor_link`` sends the orders to load and unload. Nothing here speaks to a client or computes.
"""
