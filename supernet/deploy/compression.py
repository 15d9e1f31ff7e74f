"""Compressed sizes of a subnet: float32, float16, int8, and int8 after Huffman coding.

Weights are the tensors of convolutions and linear layers, rounded symmetrically to -127..127 with
one scale a tensor. Everything else (biases, BN's gains and shifts) stays float32 in every int8
network and is counted so; BN's running statistics become part of the convolutions when a network
is deployed, and are not counted. One canonical Huffman code serves the whole network; its table is
the code length of each of the 255 values, a byte each, from which the code follows (RFC 1951,
section 3.2.2). Source of the idea: Deep Compression (1510.00149), without its pruning.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.deploy.certificate import read_certificate
from supernet.deploy.folder import load_subnet

LEVELS = 127
SCALE_BYTES = FLOAT_BYTES = 4
TABLE_BYTES = 2 * LEVELS + 1


@dataclass(frozen=True, kw_only=True)
class Compression:
    """Sizes of one network.

    Args:
        params: all parameters.
        weights: quantised parameters, which are the weights of convolutions and linear layers.
        fp32_bytes: 4 bytes a parameter.
        fp16_bytes: 2 bytes a parameter.
        int8_bytes: a byte a weight, 4 a scale, 4 for every other parameter.
        entropy_bits: of a quantised weight, over the whole network.
        huffman_bits: mean length of a quantised weight in the code.
        huffman_bytes: the coded weights, the code's table, scales and the other parameters.
        largest_params: of the largest subnet of the run.
    """

    params: int
    weights: int
    fp32_bytes: int
    fp16_bytes: int
    int8_bytes: int
    entropy_bits: float
    huffman_bits: float
    huffman_bytes: int
    largest_params: int

    @property
    def params_ratio(self) -> float:
        """Parameters of the largest subnet relative to this one."""
        return self.largest_params / self.params

    @property
    def bytes_ratio(self) -> float:
        """Bytes of the largest subnet in float32 relative to this one after Huffman coding."""
        return FLOAT_BYTES * self.largest_params / self.huffman_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        ratios = {"params_ratio": self.params_ratio, "bytes_ratio": self.bytes_ratio}
        return {**asdict(self), **ratios}


def compression(folder: Path) -> Compression:
    """Return the compressed sizes of the subnet in `folder`.

    Raises:
        CheckpointError: if it is not a subnet folder.
    """
    return compressed(load_subnet(folder), read_certificate(folder).size.largest_params)


def compressed(model: nn.Module, largest_params: int) -> Compression:
    """Return the compressed sizes of `model`, relative to `largest_params` parameters."""
    tensors = [tensor.detach() for tensor in model.parameters()]
    weights = [tensor for tensor in tensors if tensor.ndim >= 2]
    params, count = sum(t.numel() for t in tensors), sum(t.numel() for t in weights)
    rest = SCALE_BYTES * len(weights) + FLOAT_BYTES * (params - count)
    counts = histogram(weights)
    lengths = code_lengths(counts)
    bits = sum(number * length for number, length in zip(counts, lengths, strict=True))
    shares = [number / count for number in counts if number]
    return Compression(
        params=params,
        weights=count,
        fp32_bytes=4 * params,
        fp16_bytes=2 * params,
        int8_bytes=count + rest,
        entropy_bits=-math.fsum(share * math.log2(share) for share in shares),
        huffman_bits=bits / count,
        huffman_bytes=math.ceil(bits / 8) + TABLE_BYTES + rest,
        largest_params=largest_params,
    )


def quantized(tensor: Tensor) -> Tensor:
    """Quantise `tensor` to -127..127 with one scale."""
    scale = tensor.abs().max() / LEVELS
    return (tensor / scale if scale > 0 else tensor).round().to(torch.int8)


def histogram(tensors: Sequence[Tensor]) -> list[int]:
    """Return how often each of -127..127 occurs among the quantised `tensors`."""
    values = torch.cat([quantized(tensor).flatten() for tensor in tensors]).long() + LEVELS
    return [int(number) for number in values.bincount(minlength=TABLE_BYTES)]


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Return the bits of each symbol in a Huffman code; 0 for one that never occurs.

    A lone symbol takes one bit.
    """
    lengths = [0] * len(counts)
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, tie, some), (second, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*some, *others):
            lengths[symbol] += 1
        heapq.heappush(heap, (first + second, tie, some + others))
    return lengths
