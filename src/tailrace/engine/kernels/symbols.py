"""Reads which functions a shared library exports, from its file: loading it would bind llama.cpp's calls too early."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tailrace.engine.native_libs import NativeUnavailable

# The ELF format: elf(5). Only 64-bit little-endian files are read, as on every CPU that the kernels are for.
_MAGIC = b"\x7fELF\x02\x01"
_SECTION_TABLE_AT, _SECTION_COUNT_AT = 0x28, 0x3C
_SECTION_BYTES = 64
_DYNAMIC_SYMBOLS = 11  # SHT_DYNSYM
_SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
_UNDEFINED = 0  # SHN_UNDEF: the symbol is used here and defined elsewhere


class _Section(NamedTuple):
    kind: int
    offset: int
    size: int
    link: int


def exported_symbols(library: Path) -> frozenset[str]:
    """The names that the shared library defines for others. Raises NativeUnavailable for a file of another kind."""
    try:
        data = library.read_bytes()
        if not data.startswith(_MAGIC):
            raise NativeUnavailable(f"{library} isn't a shared library of a 64-bit Linux")
        sections = list(_sections(data))
        return frozenset(
            name
            for section in sections
            if section.kind == _DYNAMIC_SYMBOLS
            for name in _defined(data, section, sections[section.link])
        )
    except (OSError, struct.error, IndexError) as error:
        raise NativeUnavailable(f"{library} can't be read: {error}") from error


def _sections(data: bytes) -> Iterator[_Section]:
    (table,) = struct.unpack_from("<Q", data, _SECTION_TABLE_AT)
    (count,) = struct.unpack_from("<H", data, _SECTION_COUNT_AT)
    for at in range(table, table + count * _SECTION_BYTES, _SECTION_BYTES):
        _, kind, _, _, offset, size, link = struct.unpack_from("<IIQQQQI", data, at)
        yield _Section(kind, offset, size, link)


def _defined(data: bytes, symbols: _Section, names: _Section) -> Iterator[str]:
    for name, _, _, section, _, _ in _SYMBOL.iter_unpack(data[symbols.offset : symbols.offset + symbols.size]):
        if section != _UNDEFINED:
            start = names.offset + name
            yield data[start : data.index(b"\0", start)].decode()
