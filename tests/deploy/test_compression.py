"""Sizes of a compressed subnet, held against an encoder that really writes the bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from supernet.deploy.certificate import read_certificate
from supernet.deploy.compression import (
    TABLE_BYTES,
    code_lengths,
    compressed,
    compression,
    histogram,
    quantized,
)
from supernet.deploy.folder import load_subnet
from supernet.nn.count import num_params
from supernet.nn.extract import extract
from supernet.train.run import Trained
from tests.conftest import Command


@pytest.fixture
def subnet(fast: Path) -> Path:
    return fast


def canonical(lengths: list[int]) -> dict[str, int]:
    """Return the symbols by their bits: RFC 1951's rule, from the lengths alone."""
    words: dict[str, int] = {}
    code, before = 0, 0
    for length, symbol in sorted((n, s) for s, n in enumerate(lengths) if n):
        code <<= length - before
        words[format(code, f"0{length}b")] = symbol
        code, before = code + 1, length
    return words


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any))
def test_the_code_can_be_decoded_and_is_near_the_entropy(counts: list[int]) -> None:
    lengths = code_lengths(counts)
    assert all((length > 0) == (count > 0) for length, count in zip(lengths, counts, strict=True))
    words = canonical(lengths)
    symbols = [symbol for symbol, count in enumerate(counts) for _ in range(min(count, 3))]
    by_symbol = {symbol: word for word, symbol in words.items()}
    assert len(by_symbol) == sum(count > 0 for count in counts)
    decoded, word = [], ""
    for bit in "".join(by_symbol[symbol] for symbol in symbols):
        word += bit
        if word in words:
            decoded.append(words[word])
            word = ""
    assert (decoded, word) == (symbols, "")
    total = sum(counts)
    entropy = -sum(c / total * math.log2(c / total) for c in counts if c)
    mean = sum(c * n for c, n in zip(counts, lengths, strict=True)) / total
    assert entropy - 1e-9 <= mean <= entropy + 1
    if sum(count > 0 for count in counts) > 1:
        assert sum(2.0**-n for n in lengths if n) == 1, "no bit is wasted"


def test_weights_are_whole_numbers_of_one_scale() -> None:
    tensor = torch.tensor([[-2.0, 0.5], [1.0, 0.0]])
    assert quantized(tensor).tolist() == [[-127, 32], [64, 0]]
    assert quantized(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]
    counts = histogram([tensor, torch.ones(1, 3)])
    assert len(counts) == TABLE_BYTES
    assert {i - 127: n for i, n in enumerate(counts) if n} == {-127: 1, 0: 1, 32: 1, 64: 1, 127: 3}


def test_the_sizes_of_a_network_counted_by_hand() -> None:
    """Two weights of four values each, equally frequent: two bits a weight."""
    model = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[127.0, 1, 2, 3], [127.0, 1, 2, 3]]))
    found = compressed(model, largest_params=56)
    assert (found.params, found.weights) == (14, 8)
    assert (found.fp32_bytes, found.fp16_bytes) == (56, 28)
    assert found.int8_bytes == 8 + 4 + 4 * 6
    assert (found.entropy_bits, found.huffman_bits) == (2.0, 2.0)
    assert found.huffman_bytes == 2 + TABLE_BYTES + 4 + 4 * 6
    assert found.params_ratio == 4
    assert found.bytes_ratio == 4 * 56 / found.huffman_bytes


def test_a_subnet_beside_the_largest_of_its_run(subnet: Path, digits_run: Path) -> None:
    found = compression(subnet)
    net = Trained.open(digits_run).net
    assert found.largest_params == num_params(extract(net, net.space.largest()))
    assert found.params == num_params(load_subnet(subnet)) == read_certificate(subnet).size.params
    assert found.entropy_bits <= found.huffman_bits < 8
    assert found.huffman_bytes < found.int8_bytes < found.fp16_bytes < found.fp32_bytes
    weights = [p for p in load_subnet(subnet).parameters() if p.ndim >= 2]
    lengths = code_lengths(histogram(weights))
    bits = sum(lengths[int(v) + 127] for w in weights for v in quantized(w).flatten())
    assert found.huffman_bits == pytest.approx(bits / found.weights)


def test_the_command(command: Command, subnet: Path) -> None:
    result = command("compression", subnet)
    assert result.code == 0, result
    for word in ("parameters", "float32", "float16", "int8", "Huffman", "bits", "largest"):
        assert word in result.out
    data = json.loads(command("compression", subnet, "--json").out)
    assert data == compression(subnet).to_dict()


def test_what_is_refused(refused: Callable[..., str], subnet: Path, place: Path) -> None:
    assert "not a subnet folder" in refused("compression", "nowhere")
