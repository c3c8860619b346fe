"""Text in and out of a model: pure functions and small state machines, no I/O.

``template`` renders conversations in ``sandbox``, within ``bounds``: ``content`` finds out what a template reads,
``forms`` has simpler forms of a conversation (``untaught`` for templates that know no tools), ``coverage`` looks for
what is left out, ``prefill`` ends a prompt within a message, ``switches`` turn thinking on and off.

``detokenize`` turns tokens into text, ``stops`` finds stop strings, ``parse`` splits a reply into ``parts`` by its
family's ``markup``, ``pipeline`` chains the three. ``families`` knows how models mark thoughts and calls, ``readers``
read calls, ``constrain`` makes the grammar of a reply that has to be one, in ``lark``.
"""
