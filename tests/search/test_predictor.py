"""The accuracy predictor: what it finds again, how it is kept, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from supernet.errors import CheckpointError
from supernet.search import predictor
from supernet.search.methods.encoding import SpaceEncoding
from supernet.search.predictor import Predictor
from supernet.space.cost import Floats, Integers
from tests.builders import conf_space

SPACE = conf_space("fashion")
GENES = SpaceEncoding(SPACE)


def genomes_of(count: int, seed: int = 0) -> Integers:
    return GENES.decode(GENES.sample(count, np.random.default_rng(seed)))


def additive(genomes: Integers) -> Floats:
    weights = np.random.default_rng(1).normal(size=GENES.one_hot(genomes[:1]).shape[1])
    return 0.9 + 0.01 * GENES.one_hot(genomes) @ weights


def fitted(noise: float = 0.0) -> Predictor:
    genomes = genomes_of(300)
    extra = noise * np.random.default_rng(2).normal(size=300)
    return predictor.fit(GENES, genomes, additive(genomes) + extra)


def test_an_additive_truth_is_found_again_by_the_cheapest_model() -> None:
    model, others = fitted(), genomes_of(100, seed=9)
    assert model.kind == "ridge"
    np.testing.assert_allclose(model(others), additive(others), atol=2e-3)
    rows = np.arange(others.shape[1] - 1)
    sums = model.additive[others[:, -1][:, None], rows, others[:, :-1]].sum(1)
    np.testing.assert_allclose(np.diff(sums), np.diff(model(others)), atol=1e-12)
    assert set(model.compared) == {"ridge", "pairs", "mlp"}
    assert model.rmse < 2e-3
    assert model.tau > 0.95


def test_the_error_is_that_of_nets_left_out() -> None:
    model = fitted(noise=0.01)
    assert 0.008 < model.rmse < 0.015


def test_a_truth_with_pairs_needs_a_dearer_model() -> None:
    genomes = genomes_of(300)
    depths = [(genomes[:, where] > 0).mean(1) for where in SPACE.stage_slices]
    model = predictor.fit(GENES, genomes, 0.8 + 0.3 * depths[0] * depths[1])
    assert model.kind != "ridge"
    assert model.rmse < 0.9 * model.compared["ridge"]


@pytest.mark.parametrize("pairs", [False, True])
def test_what_is_kept_predicts_the_same(tmp_path: Path, pairs: bool) -> None:
    genomes = genomes_of(200)
    depths = [(genomes[:, where] > 0).mean(1) for where in SPACE.stage_slices]
    truth = additive(genomes) + pairs * 3 * depths[0] * depths[1]
    model = predictor.fit(GENES, genomes, truth)
    path = tmp_path / "p.safetensors"
    model.save(path, checkpoint="abc")
    assert [file.name for file in tmp_path.iterdir()] == ["p.safetensors"]
    again = predictor.load(path, GENES, checkpoint="abc")
    np.testing.assert_array_equal(again(genomes), model(genomes))
    assert (again.kind, again.rmse, again.tau) == (model.kind, model.rmse, model.tau)
    with pytest.raises(CheckpointError, match="fitted on another checkpoint"):
        predictor.load(path, GENES, checkpoint="other")
    other = conf_space("tiny")
    with pytest.raises(CheckpointError, match="fitted on another space"):
        predictor.load(path, SpaceEncoding(other))


@pytest.mark.parametrize("content", [b"", b"{}", b"\x80\x04N.", b"\xff" * 100])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a predictor"):
        predictor.load(path, GENES)
