"""The models that a server lists (``GET /v1/models``), and the question for its key where it wants one."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tailrace.cli.server_client import Refused, ServerClient, WrongKey, reason

Entry = Mapping[str, Any]


def listed_models(client: ServerClient) -> list[Entry]:
    """The models, each with its ``id``, the default one first. Raises as ``ServerClient.get`` does, and Refused."""
    status, body = client.get("/v1/models")
    if status != 200:
        why = reason(body) or "is it another kind of server?"
        raise Refused(f"{client.url} lists no models (status {status}): {why}")
    try:
        data = msgspec.json.decode(body)["data"]
        return [{**entry, "id": str(entry["id"])} for entry in data]
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise Refused(f"{client.url} lists its models in no form of OpenAI's") from error


def listed_with_key(client: ServerClient, variables: Sequence[str]) -> list[Entry]:
    """The same. A person is asked for the key where the server wants one, and ``client`` has it then.

    ``variables``: which ones may have the key, for the error where no person is there.
    """
    try:
        return listed_models(client)
    except WrongKey as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            which = "another" if client.key else "an"
            raise WrongKey(f"{client.url} wants {which} API key: set {' or '.join(variables)}") from error
    client.key = getpass.getpass(f"API key of {client.url}: ").strip() or None
    return listed_models(client)
