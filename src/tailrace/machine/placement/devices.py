"""What a machine computes with: its processors and GPUs, workers on other machines, and the links to them."""

from __future__ import annotations

import msgspec


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One device. The first one of a machine is its CPU, to which the others have links."""

    name: str  #: as rules name it: ``local``, a worker's address, or llama.cpp's name of a GPU
    free: int  #: bytes that weights, caches and buffers may take
    bandwidth: float  #: bytes of weights that it reads in a second
    arithmetic: float  #: multiplications, each with its addition, in a second, over many tokens
    expert_bandwidth: float = 0.0  #: the same of routed experts, which lie apart; 0: as of other weights
    expert_arithmetic: float = 0.0  #: with the few tokens that each expert gets; 0: as of other weights
    layer_seconds: float = 0.0  #: what a layer takes beside reading and arithmetic: launches, waits
    submit_seconds: float = 0.0  #: of a layer that is described to the device anew in each pass
    link_bandwidth: float = float("inf")  #: bytes a second between the CPU and it
    link_seconds: float = 0.0  #: of one transfer, whatever its size
    read_seconds: float = 0.0  #: of each further tensor that goes to the CPU with it
    write_seconds: float = 0.0  #: of each further tensor that comes from the CPU with it
    #: Tokens of a pass from which the device computes with the CPU's weights, which are copied to it; 0: it never does.
    copies_from: int = 0
    reads_whole_caches: bool = False  #: also the cells outside of a layer's window
    assumed: tuple[str, ...] = ()  #: names of the numbers above that nothing has measured


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What the model is to do: it decides the caches' and buffers' sizes, and which speed counts how much."""

    cells: int  #: tokens that the KV cache holds
    sequences: int = 1  #: requests at the same time
    depth: int = 2048  #: tokens behind which a decoded token is predicted
    pass_tokens: int = 512  #: prompt tokens of one pass
    prompt_weight: float = 4.0  #: prompt tokens for each token of a reply, which weigh both speeds
