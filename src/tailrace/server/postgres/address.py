"""Checks the address of a PostgreSQL server before it is used. Nothing connects here."""

from __future__ import annotations

from tailrace.errors import ConfigurationError


def check_address(setting: str, address: str) -> None:
    """Raise ConfigurationError where the address of this setting can't be read, or psycopg isn't installed. The error
    doesn't have the address: it may have a password.
    """
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise ConfigurationError(
            f"{setting} needs psycopg, which isn't here ({error}): pip install 'tailrace[postgres]'"
        ) from error
    try:
        found = conninfo_to_dict(address)
    except ProgrammingError:
        found = {"host": "@"}
    if "@" in str(found.get("host", "")):
        raise ConfigurationError(
            f"{setting} can't be read as an address of PostgreSQL: write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 for an @ in the password, %2F for a slash and %3A "
            "for a colon; or leave the password to PGPASSWORD, ~/.pgpass or a service file"
        )


def check_no_password(flag: str, address: str | None) -> None:
    """Raise ConfigurationError for a password on the command line, which every user of the machine can read there."""
    if address is None:
        return
    setting = flag.removeprefix("--").replace("-", "_")
    check_address(setting, address)
    from psycopg.conninfo import conninfo_to_dict

    if {"password", "sslpassword"} & conninfo_to_dict(address).keys():
        raise ConfigurationError(
            f"{flag}: other users of this machine can read a password on the command line; set "
            f"TAILRACE_{setting.upper()}, or leave the password to PGPASSWORD, ~/.pgpass or a service file"
        )
