"""API keys: named, with limits of their own.

``keys_file``: the file, which has hashes and no keys. ``key_ring``: which key a request has. ``allowance``: what a key
may still use. ``token_charge``: what one request has charged to it. ``daily_use`` and ``usage_store``: each
day's use, collected and on disk. ``limit_headers``: the allowance as headers of a response. ``duration``: times as
people write them. A key itself is shown once, when it is made; everything else has its name.

Keys of several servers are in PostgreSQL. ``postgres_keys``: the tables of keys and their use. ``shared_keys``: a
server's side of them. ``shared_allowance``: what a key may still use where all servers count together.
"""
