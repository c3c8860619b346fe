"""The HTTP process: it speaks every client's dialect over one event model, and loads no inference code.

Start and routes: ``process``, ``app``, ``app_state``, ``middleware``, ``endpoint``, ``status_routes``, ``openapi``.
Callers: ``keys`` knows API keys, ``browsers`` web pages, ``caller`` is the sender of a request; ``tls`` and
``start_check`` use the files and settings for it.
Request bodies: ``request_body``, ``content_encoding``, ``json_body``, ``stop_fields``, ``thinking_fields``.
One generation: ``chat_request`` makes a conversation's ``generation_request``; ``generation`` submits its choices
(``choice``, ``tracked_choice``, ``context_shift``) and emits ``events``.
Replies: ``waiting_stream`` sends keep-alives while a model is loaded; ``streaming`` writes events as they happen,
framed by ``sse`` or ``ndjson``; ``collected_reply`` collects them.
Models: ``models`` has the served ones, and finds the one that a request names.
Engines: ``engine_client``, one a model, owns an ``engine_connection`` for each replica, ``in_flight`` passes messages
on, ``replica_router`` chooses the replica, ``engine_query`` is a request without a generation, ``text_queries``
how routes ask for one.
``dialects`` decode requests and encode events.
"""
