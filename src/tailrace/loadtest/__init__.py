"""The load generator of ``tailrace bench``: requests to any server over HTTP, and the times of their tokens."""
