"""The formats that the kernels compute, as gguf names them."""

from __future__ import annotations

from gguf import GGMLQuantizationType as Kind

#: Each format, and that of the activations in file order.
ACTIVATIONS_OF = {
    Kind.Q4_0: Kind.Q8_0,
    Kind.Q4_1: Kind.Q8_1,
    Kind.Q5_0: Kind.Q8_0,
    Kind.Q5_1: Kind.Q8_1,
    Kind.Q8_0: Kind.Q8_0,
    Kind.IQ4_NL: Kind.Q8_0,
    Kind.MXFP4: Kind.Q8_0,
    Kind.Q2_K: Kind.Q8_K,
    Kind.Q3_K: Kind.Q8_K,
    Kind.Q4_K: Kind.Q8_K,
    Kind.Q5_K: Kind.Q8_K,
    Kind.Q6_K: Kind.Q8_K,
    Kind.IQ4_XS: Kind.Q8_K,
}


#: Formats that are repacked: 16-bit floats are computed in no other way.
REPACKED = (*ACTIVATIONS_OF, Kind.F16, Kind.BF16)
