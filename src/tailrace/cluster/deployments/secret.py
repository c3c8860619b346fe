"""The secret that a cluster's replicas and ingresses share. The first of them makes it; Ray keeps it."""

from __future__ import annotations

import secrets

from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

_KEY = b"tailrace:cluster-secret"
_NAMESPACE = b"tailrace"


def shared_secret() -> str:
    """The secret. It stays the same as long as Ray's head node lives."""
    _internal_kv_put(_KEY, secrets.token_urlsafe(32), overwrite=False, namespace=_NAMESPACE)
    found = _internal_kv_get(_KEY, namespace=_NAMESPACE)
    assert found is not None
    return bytes(found).decode()
