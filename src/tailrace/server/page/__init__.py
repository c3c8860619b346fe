"""The page at ``/``: a chat and a dashboard for browsers. Its sources are in ``web/``, its files in ``built/``.

``built_page`` reads the files that the build has left, ``negotiation`` says what a client accepts, and ``routes`` has
the routes. The page is a client like any other: it has no data of its own and uses the API that every client uses.
"""
