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
from dataclasses import dataclass
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
from supernet.search.methods.encoding import Floats, Genes, Integers

FORMAT, VERSION = "supernet-predictor", 2
FOLDS = 5
LEAST = 2 * FOLDS
"""Architectures that a model is fitted on."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
GAIN = 0.05
HIDDEN, MEMBERS, ROUNDS = 32, 4, 200
DECAYS = (0.1, 1.0, 10.0)


def _pairs(genes: Genes, genomes: Integers) -> Floats:
    """Return the one-hots, and products of the stages' depths and of the resolution."""
    depths = [
        np.count_nonzero(genomes[:, where], axis=1) / (where.stop - where.start)
        for where in genes.encoding.stages
    ]
    size = genomes[:, -1] / max(genes.num_resolutions - 1, 1)
    sums = np.stack([*depths, size], axis=1)
    i, j = np.triu_indices(sums.shape[1])
    return np.concatenate([genes.one_hot(genomes), sums[:, i] * sums[:, j]], axis=1)


Model = Mapping[str, Floats]


def _fit_ridge(x: Floats, y: Floats, ridge: float) -> Model:
    from sklearn.linear_model import Ridge

    found = Ridge(ridge * len(x)).fit(x, y)
    return {"weights": found.coef_, "bias": np.array([found.intercept_])}


def _run_ridge(model: Model, x: Floats) -> Floats:
    found: Floats = x @ model["weights"] + model["bias"][0]
    return found


def _fit_mlp(x: Floats, y: Floats, decay: float) -> Model:
    """Fit ensemble members, each from other weights, on all of the data."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    mean, spread = y.mean(), y.std() + 1e-12
    members: dict[str, Floats] = {"mean": np.array([mean]), "spread": np.array([spread])}
    for member in range(MEMBERS):
        net = MLPRegressor(
            hidden_layer_sizes=(HIDDEN,), alpha=decay, max_iter=ROUNDS, solver="lbfgs",
            random_state=member,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # ending early is wanted
            net.fit(x, (y - mean) / spread)
        for layer, (weights, biases) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
            members |= {f"{member}.weights{layer}": weights, f"{member}.bias{layer}": biases}
    return members


def _run_mlp(model: Model, x: Floats) -> Floats:
    outs = []
    for member in range(MEMBERS):
        (a, b), (c, d) = (
            (model[f"{member}.weights{layer}"], model[f"{member}.bias{layer}"]) for layer in (0, 1)
        )
        outs.append((np.maximum(x @ a + b, 0) @ c + d)[:, 0])
    found: Floats = np.mean(outs, axis=0) * model["spread"][0] + model["mean"][0]
    return found


Features = Callable[[Genes, Integers], Floats]
Fit = Callable[[Floats, Floats, float], Model]
Run = Callable[[Model, Floats], Floats]
KINDS: dict[str, tuple[Features, Fit, Run, tuple[float, ...]]] = {
    "ridge": (Genes.one_hot, _fit_ridge, _run_ridge, RIDGES),
    "pairs": (_pairs, _fit_ridge, _run_ridge, RIDGES),
    "mlp": (Genes.one_hot, _fit_mlp, _run_mlp, DECAYS),
}


@dataclass(frozen=True, eq=False)
class Predictor:
    """A fitted model.

    Args:
        genes: of the space it was fitted on.
        kind: one of `KINDS`.
        model: its tensors, `weights` of the additive part among them.
        rmse: cross-validated root mean squared error, in the unit of what is predicted.
        tau: cross-validated Kendall tau.
        compared: the cross-validated errors of all kinds.
        num_archs: how many architectures it was fitted on.
    """

    genes: Genes
    kind: str
    model: Model
    rmse: float
    tau: float
    compared: Mapping[str, float]
    num_archs: int

    def __call__(self, genomes: Integers) -> Floats:
        """Return the predicted accuracies `[N]` of `genomes` `[N, B + 1]`."""
        features, _, run, _ = KINDS[self.kind]
        return run(self.model, features(self.genes, genomes))

    @property
    def additive(self) -> Floats:
        """The additive part `[R, B, O]`; beside small networks that of the ridge regression."""
        return self.genes.scores(self.model["weights"])

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


def load(path: Path, genes: Genes, *, checkpoint: str | None = None) -> Predictor:
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
    predictor = Predictor(genes, model=model, **told)
    genome = np.zeros((1, len(genes.encoding.allowed) + 1), dtype=np.int64)
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


def fit(genes: Genes, genomes: Integers, top1: Floats) -> Predictor:
    """Fit every kind, and return the cheapest that is good enough.

    Args:
        genes: of the space.
        genomes: `[N, B + 1]`, at least `LEAST`.
        top1: `[N]`, what they score.
    """
    assert len(genomes) >= LEAST
    fold = np.random.default_rng(0).permutation(len(genomes)) % FOLDS
    compared: dict[str, float] = {}
    best: tuple[str, float, float, float] | None = None
    additive: Model = {}
    for kind, (features, fitted, run, ridges) in KINDS.items():
        x = features(genes, genomes)
        tries = [(_crossed(fitted, run, x, top1, fold, ridge), ridge) for ridge in ridges]
        (predicted, ridge) = min(tries, key=lambda pair: _rmse(pair[0], top1))
        error = compared[kind] = _rmse(predicted, top1)
        if kind == "ridge":
            additive = {"weights": fitted(x, top1, ridge)["weights"]}
        if best is None or error < (1 - GAIN) * best[1]:
            best = (kind, error, ridge, float(scipy.stats.kendalltau(predicted, top1).statistic))
    assert best is not None
    kind, error, ridge, tau = best
    features, fitted, _, _ = KINDS[kind]
    model = {**additive, **fitted(features(genes, genomes), top1, ridge)}
    return Predictor(genes, kind, model, error, tau, compared, len(genomes))


def _crossed(fitted: Fit, run: Run, x: Floats, y: Floats, fold: Integers, ridge: float) -> Floats:
    """Return what each fold is predicted by the model of the others."""
    predicted = np.zeros(len(y))
    for number in range(FOLDS):
        mine = fold == number
        predicted[mine] = run(fitted(x[~mine], y[~mine], ridge), x[mine])
    return predicted


def _rmse(a: Floats, b: Floats) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))
