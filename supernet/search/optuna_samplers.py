"""Optuna's samplers as search methods: `tpe` and `gp`, a gene a categorical parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna

from supernet.search.problem import Evaluator, Problem

BATCH = 8


def tpe(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Tree-structured Parzen estimator, multivariate."""
    seed = int(rng.integers(2**31))
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    _search(problem, evaluate, sampler, BATCH)


def gp(problem: Problem, evaluate: Evaluator, rng: np.random.Generator) -> None:
    """Gaussian process with log expected improvement."""
    seed = int(rng.integers(2**31))
    _search(problem, evaluate, optuna.samplers.GPSampler(seed=seed), 1)


def _search(problem: Problem, evaluate: Evaluator, sampler: Any, batch: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    choices: dict[str, optuna.distributions.BaseDistribution] = {
        f"g{gene}": optuna.distributions.CategoricalDistribution(list(range(size)))
        for gene, size in enumerate(problem.genes.sizes.tolist())
    }
    study.enqueue_trial({f"g{gene}": int(v) for gene, v in enumerate(problem.anchor)})
    while not evaluate.over:
        trials = [study.ask(choices) for _ in range(batch)]
        genes = np.array([[trial.params[name] for name in choices] for trial in trials])
        fitness = evaluate(genes)
        for trial, value, excess in zip(
            trials, fitness, problem.excess(problem.genes.decode(genes)), strict=True
        ):
            trial.set_constraint("limits", max(float(excess), 0.0))
            if np.isfinite(value):
                study.tell(trial, float(value))
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
