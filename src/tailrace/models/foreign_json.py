"""JSON of other programs and of servers: which errors a decoder raises where it isn't what was expected."""

from __future__ import annotations

import msgspec

#: For text that is damaged, of another form, not UTF-8, or nested too deep.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
