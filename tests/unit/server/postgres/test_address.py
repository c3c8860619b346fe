"""Addresses of PostgreSQL: what is refused, and that no error has a password."""

from __future__ import annotations

import pytest

from tailrace.errors import ConfigurationError
from tailrace.server.postgres.address import check_address, check_no_password
from tailrace.server.start_check import check_http_settings
from tailrace.settings import Settings, resolve


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://",
        "postgres://user@db/tailrace",
        "postgresql://user:secret@db:5432/tailrace?sslmode=verify-full",
        "postgresql://user:p%40ss@db,other:5433/tailrace?target_session_attrs=read-write",
        "postgresql:///tailrace?host=/run/postgresql",
        "postgresql://?service=tailrace",
    ],
)
def test_addresses_of_libpq_are_taken(address: str) -> None:
    check_address("keys_store", address)
    check_http_settings(Settings(responses_store=address))


@pytest.mark.parametrize(
    "address",
    ["postgresql://user:sec@ret@db/tailrace", "postgresql://u:secret@db/x?nonsense=1", "postgresql://u:%zz@db"],
)
def test_an_address_that_can_not_be_read_is_not_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^responses_store can't be read .* ~/.pgpass") as caught:
        check_http_settings(Settings(responses_store=address))
    assert "ret" not in str(caught.value).replace("secret", "")


def test_another_scheme_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="responses_store \\(environment\\) can't be a secret") as caught:
        resolve({}, environment={"TAILRACE_RESPONSES_STORE": "mysql://u:secr3t@db/x"})
    assert "secr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["postgresql://u:secr3t@db/x", "postgresql://u@db/x?password=secr3t", "postgresql://db/?sslpassword=secr3t"],
)
def test_a_password_on_the_command_line_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="set TAILRACE_KEYS_STORE, or leave the password") as caught:
        check_no_password("--keys-store", address)
    assert "secr3t" not in str(caught.value)
    check_no_password("--keys-store", "postgresql://u@db/x")
    check_no_password("--keys-store", None)


def test_a_file_beside_a_store_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="responses_store and responses_file are both set"):
        check_http_settings(Settings(responses_store="postgresql://db/x", responses_file="/tmp/x"))
