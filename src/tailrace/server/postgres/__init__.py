"""PostgreSQL, for what several servers share. The only package that imports psycopg, where a setting asks for it.

``address`` checks a setting before any process starts. ``connection`` is one connection, for one thread. ``database``
is the pool that the event loop uses: threads, time limits, and what happens while PostgreSQL is gone. ``schema`` brings
tables up to date. ``process_lease`` shows other servers that this process lives. The tables, and what they mean, belong
to the packages that store something.
"""
