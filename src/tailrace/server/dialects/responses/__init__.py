"""OpenAI's Responses: ``/v1/responses``, its stream of named events, and the store of responses and conversations.

``request`` has the body's fields, ``items`` the items of input and output, ``tools`` the offered tools.
``chat_messages`` translates items into the template's messages, ``prepare`` makes the generation. ``output`` builds a
reply's items, ``stream`` encodes them, ``response_object`` is the response, ``store`` stores it. ``background`` runs
responses without a client; ``routes`` has the handlers.
"""
