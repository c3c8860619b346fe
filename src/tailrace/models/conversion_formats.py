"""The weight formats that a model can be converted to: names, file types and sizes. ``engine`` does the conversion.

A format is one of llama.cpp's file types, and the tensors that stay at Q8_0 because they lose the most.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tailrace.errors import ConfigurationError

#: Values of ``--weights`` besides ``as-is``: each lets tailrace choose the format.
AIMS = ("near-lossless", "fast")


class ConversionFormat(msgspec.Struct, frozen=True, kw_only=True, rename={"q8_tensors": "keep"}):
    """One weight format. ``keep`` is the key in records of converted files, which older versions have written."""

    name: str
    file_type: str  #: llama.cpp's ``LLAMA_FTYPE_MOSTLY_`` name
    bits: Annotated[float, Meta(gt=0)]  #: bits per weight, approximately, with the scales
    q8_tensors: tuple[str, ...] = ()  #: parts of the names of tensors that are stored as Q8_0


#: With grouped heads, keys and values are a small part of the weights and the most sensitive one. At Q8_0 they take
#: 4 % more of the starter model's file, and the divergence of Q4_0 falls from 0.33 to 0.25 nats.
_KEYS_AND_VALUES = ("attn_k", "attn_v")

CONVERSION_FORMATS: dict[str, ConversionFormat] = {
    each.name: each
    for each in (
        ConversionFormat(name="Q4_0", file_type="Q4_0", bits=4.6),
        ConversionFormat(name="Q4_0-KV8", file_type="Q4_0", bits=4.8, q8_tensors=_KEYS_AND_VALUES),
        ConversionFormat(name="IQ4_NL", file_type="IQ4_NL", bits=4.6),
        ConversionFormat(name="IQ4_NL-KV8", file_type="IQ4_NL", bits=4.8, q8_tensors=_KEYS_AND_VALUES),
        ConversionFormat(name="Q4_K_S", file_type="Q4_K_S", bits=4.7),
        ConversionFormat(name="Q4_K_M", file_type="Q4_K_M", bits=4.9),
        ConversionFormat(name="Q5_K_M", file_type="Q5_K_M", bits=5.7),
        ConversionFormat(name="Q6_K", file_type="Q6_K", bits=6.6),
        ConversionFormat(name="Q8_0", file_type="Q8_0", bits=8.5),
        ConversionFormat(name="F16", file_type="F16", bits=16.1),
        ConversionFormat(name="BF16", file_type="BF16", bits=16.1),
    )
}


def find_conversion_format(name: str) -> ConversionFormat:
    """The format of this name; case doesn't matter. Raises ConfigurationError, which lists all formats."""
    for each in CONVERSION_FORMATS.values():
        if each.name.lower() == name.lower():
            return each
    raise ConfigurationError(
        f"there is no weight format {name!r}: choose {', '.join(AIMS)} or one of {', '.join(CONVERSION_FORMATS)}"
    )
