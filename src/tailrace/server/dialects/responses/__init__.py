"""OpenAI's Responses: ``/v1/responses``, its stream of named events, and the store that keeps replies.

``request`` has the body's fields, ``items`` the items of input and output, ``tools`` what may be called,
``conversation`` makes the model's messages of them, ``prepare`` the generation; ``output`` gathers a reply's items,
``stream`` puts them on the wire, ``body`` is the response object, ``store`` keeps it, ``background`` runs without a
client, ``routes`` answers.
"""
