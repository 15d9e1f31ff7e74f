"""The accuracy of an architecture without running it, with its measured error.

Three models compete by five-fold cross-validation, from the cheapest on: ridge regression on
one-hots, which is additive; the same with pairwise terms of the stages; an ensemble of small MLPs.
A dearer one is taken only if it lowers the error by a twentieth; the additive one is kept in any
case, as exact search begins with its optimum. Not here: which architectures are scored, the search
that uses the prediction.

scikit-learn and parts of scipy are imported when first used, here and in `data/` and `latency/`:
that takes about a second, and most commands never need them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from supernet.errors import CheckpointError
from supernet.io.atomic import whole
from supernet.io.read import check_regular, parse_json
from supernet.io.validate import construct
from supernet.search.methods.encoding import SpaceEncoding
from supernet.space.cost import Floats, Integers

FORMAT, VERSION = "supernet-predictor", 2
FOLDS = 5
LEAST = 2 * FOLDS
"""Architectures that a model is fitted on."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
GAIN = 0.05
HIDDEN, MEMBERS, ROUNDS = 32, 4, 200
DECAYS = (0.1, 1.0, 10.0)


Model = Mapping[str, Floats]


def _pairs(encoding: SpaceEncoding, genomes: Integers) -> Floats:
    """Return the one-hots, and products of the stages' depths and of the resolution."""
    depths = [
        np.count_nonzero(genomes[:, where], axis=1) / (where.stop - where.start)
        for where in encoding.space.stage_slices
    ]
    size = genomes[:, -1] / max(encoding.num_resolutions - 1, 1)
    sums = np.stack([*depths, size], axis=1)
    i, j = np.triu_indices(sums.shape[1])
    return np.concatenate([encoding.one_hot(genomes), sums[:, i] * sums[:, j]], axis=1)


def _ridge(ridge: float, count: int) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(ridge * count)


def _ridge_tensors(fitted: Any) -> Model:
    return {"weights": fitted.coef_, "bias": np.array([fitted.intercept_])}


def _run_ridge(model: Model, x: Floats) -> Floats:
    found: Floats = x @ model["weights"] + model["bias"][0]
    return found


def _mlps(decay: float, count: int) -> Any:
    """Return ensemble members that start from other weights and see all of the data."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.ensemble import VotingRegressor
    from sklearn.neural_network import MLPRegressor
    from sklearn.preprocessing import StandardScaler

    members = [
        (str(member), MLPRegressor(hidden_layer_sizes=(HIDDEN,), alpha=decay, max_iter=ROUNDS,
                                   solver="lbfgs", random_state=member))
        for member in range(MEMBERS)
    ]  # fmt: skip
    return TransformedTargetRegressor(VotingRegressor(members), transformer=StandardScaler())


def _mlp_tensors(fitted: Any) -> Model:
    scaler = fitted.transformer_
    tensors = {"mean": scaler.mean_, "spread": scaler.scale_}
    for member, net in enumerate(fitted.regressor_.estimators_):
        for layer, (weights, biases) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
            tensors |= {f"{member}.weights{layer}": weights, f"{member}.bias{layer}": biases}
    return tensors


def _run_mlp(model: Model, x: Floats) -> Floats:
    outs = []
    for member in range(MEMBERS):
        (a, b), (c, d) = (
            (model[f"{member}.weights{layer}"], model[f"{member}.bias{layer}"]) for layer in (0, 1)
        )
        outs.append((np.maximum(x @ a + b, 0) @ c + d)[:, 0])
    found: Floats = np.mean(outs, axis=0) * model["spread"][0] + model["mean"][0]
    return found


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of model: features, a fresh estimator for a penalty, its tensors, and how they run."""

    features: Callable[[SpaceEncoding, Integers], Floats]
    estimator: Callable[[float, int], Any]
    tensors: Callable[[Any], Model]
    run: Callable[[Model, Floats], Floats]
    penalties: tuple[float, ...]


_RIDGE = Kind(features=SpaceEncoding.one_hot, estimator=_ridge, tensors=_ridge_tensors,
              run=_run_ridge, penalties=RIDGES)  # fmt: skip
KINDS = {
    "ridge": _RIDGE,
    "pairs": replace(_RIDGE, features=_pairs),
    "mlp": Kind(features=SpaceEncoding.one_hot, estimator=_mlps, tensors=_mlp_tensors,
                run=_run_mlp, penalties=DECAYS),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Predictor:
    """A fitted model.

    Args:
        encoding: of the space it was fitted on.
        kind: one of `KINDS`.
        model: its tensors, `weights` of the additive part among them.
        rmse: cross-validated root mean squared error, in the unit of what is predicted.
        tau: cross-validated Kendall tau.
        compared: the cross-validated errors of all kinds.
        num_archs: how many architectures it was fitted on.
    """

    encoding: SpaceEncoding
    kind: str
    model: Model
    rmse: float
    tau: float
    compared: Mapping[str, float]
    num_archs: int

    def __call__(self, genomes: Integers) -> Floats:
        """Return the predicted accuracies `[N]` of `genomes` `[N, B + 1]`."""
        kind = KINDS[self.kind]
        return kind.run(self.model, kind.features(self.encoding, genomes))

    @property
    def additive(self) -> Floats:
        """The additive part `[R, B, O]`; beside small networks that of the ridge regression."""
        return self.encoding.scores(self.model["weights"])

    def save(self, path: Path, *, checkpoint: str) -> None:
        """Write tensors and facts to a safetensors file."""
        tau = None if np.isnan(self.tau) else self.tau
        facts = {"format": FORMAT, "version": VERSION, "kind": self.kind, "rmse": self.rmse,
                 "tau": tau, "compared": dict(self.compared), "num_archs": self.num_archs,
                 "checkpoint": checkpoint}  # fmt: skip
        tensors = {name: np.ascontiguousarray(value) for name, value in self.model.items()}
        content = save(tensors, metadata={"supernet": json.dumps(facts)})
        with whole(path) as beside:
            beside.write_bytes(content)


def load(path: Path, encoding: SpaceEncoding, *, checkpoint: str | None = None) -> Predictor:
    """Read what `Predictor.save` wrote.

    Raises:
        CheckpointError: if it is no predictor, of another space, or of another checkpoint.
    """
    check_regular(path, error=CheckpointError)
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {})["supernet"]
            facts = parse_json(text, place=str(path), error=CheckpointError)
            model = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = (facts["format"], facts["version"]) == (FORMAT, VERSION) and facts["kind"] in KINDS
        told = construct(_told, {name: facts[name] for name in _TOLD}, "facts")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: not a predictor of this program ({' '.join(str(error).split())})"
        ) from error
    if not known:
        raise CheckpointError(f"{path}: not a predictor of version {VERSION}")
    if not all(tensor.dtype == np.float64 for tensor in model.values()):
        raise CheckpointError(f"{path}: not a predictor of this program (other numbers than its)")
    if checkpoint is not None and facts.get("checkpoint") != checkpoint:
        raise CheckpointError(
            f"{path}: fitted on another checkpoint; fit it anew with `supernet predictor`"
        )
    predictor = Predictor(encoding, model=model, **told)
    genome = np.zeros((1, len(encoding.allowed) + 1), dtype=np.int64)
    try:
        fits = predictor(genome).shape == (1,) and all(
            np.isfinite(found).all() for found in (predictor(genome), predictor.additive)
        )
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise CheckpointError(f"{path}: fitted on another space") from error
    if not fits:
        raise CheckpointError(f"{path}: fitted on another space, or damaged")
    return predictor


_TOLD = ("kind", "rmse", "tau", "compared", "num_archs")


def _told(
    *, kind: str, rmse: float, tau: float | None, compared: dict[str, float], num_archs: int
) -> dict[str, Any]:
    """Return what a file says of a predictor, once its types are checked."""
    if not all(isinstance(error, float) for error in compared.values()):
        raise CheckpointError("compared: expected the error of each kind")
    tau = float("nan") if tau is None else tau
    return {"kind": kind, "rmse": rmse, "tau": tau, "compared": compared, "num_archs": num_archs}


def fit(encoding: SpaceEncoding, genomes: Integers, top1: Floats) -> Predictor:
    """Fit every kind, and return the cheapest that is good enough.

    Args:
        encoding: of the space.
        genomes: `[N, B + 1]`, at least `LEAST`.
        top1: `[N]`, what they score.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    assert len(genomes) >= LEAST
    count = len(genomes)
    folds = PredefinedSplit(np.random.default_rng(0).permutation(count) % FOLDS)
    compared: dict[str, float] = {}
    penalties: dict[str, float] = {}
    best, tau = "ridge", float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ending early is wanted
        for name, kind in KINDS.items():
            x = kind.features(encoding, genomes)
            tries = []
            for penalty in kind.penalties:
                model = kind.estimator(penalty, count - count // FOLDS)
                predicted = cross_val_predict(model, x, top1, cv=folds)
                tries.append((_rmse(predicted, top1), penalty, predicted))
            compared[name], penalties[name], predicted = min(tries, key=lambda item: item[0])
            if name == best or compared[name] < (1 - GAIN) * compared[best]:
                best, tau = name, float(scipy.stats.kendalltau(predicted, top1).statistic)
        tensors: dict[str, Floats] = {}
        for name in dict.fromkeys(("ridge", best)):  # the additive part is kept in any case
            kind = KINDS[name]
            fresh = kind.estimator(penalties[name], count)
            tensors |= kind.tensors(fresh.fit(kind.features(encoding, genomes), top1))
    return Predictor(encoding, best, tensors, compared[best], tau, compared, count)


def _rmse(a: Floats, b: Floats) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
