"""Pulls: models that are downloaded from the Hugging Face hub and from Ollama's registry.

``pull`` is what the rest of the program calls. It runs each pull in a child process (``pull_process``), so a download
can't hurt the process that wants it. ``hub`` and ``ollama_registry`` speak the two protocols. ``hub_cache`` and
``ollama_layout`` know how their files lie on the disk. ``download`` gets one file, ``file_set`` all of a model, and
``transport`` makes the requests.

The catalogue's models come from the package registry (``models.fetch``). Nothing here reads a model's weights.
"""
