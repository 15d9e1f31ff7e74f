"""`supernet tune`: Optuna over trainings, with early stopping, kept in a database.

A trial is a training of its own folder; after every epoch it reports the mean of the validation
top-1 of its largest and its smallest subnet, by which it may be stopped early. Any process that
names the same storage takes part. Not here: the settings to vary.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError

from supernet.errors import Diverged, SupernetError
from supernet.io.atomic import whole, write_json, written
from supernet.io.lock import held, held_beside
from supernet.io.read import read_json
from supernet.io.reporter import SILENT, Reporter
from supernet.train import job as training
from supernet.train.build import build_recipe, build_space
from supernet.train.logger import Launch, varied_by
from supernet.train.models import ModelSource
from supernet.train.phases import Phase
from supernet.train.tune_space import Plan, overrides_of

DATABASE, PLAN = "study.db", "plan.json"
LOCKED_SECONDS = 60  # that SQLite waits for the others that write
RETRY_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)  # between the attempts to open a storage
HEARTBEAT, GRACE = 30, 120  # seconds; a trial that is silent for longer was killed
NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early"}
KINDS = (*NAMES.values(), "diverged")

Compose = Callable[[Sequence[str]], dict[str, Any]]
SourceOf = Callable[[Mapping[str, Any]], ModelSource]


def tune(
    plan: Plan,
    compose: Compose,
    source_of: SourceOf,
    folder: Path,
    reporter: Reporter,
    *,
    storage: str | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Run the missing trials of `plan` and return the results.

    Args:
        plan: the settings to vary.
        compose: from Hydra overrides to a configuration.
        source_of: from a configuration to the source of its network.
        folder: of the trials' runs, the database and the results.
        reporter: notes the end of each trial.
        storage: an Optuna storage URL; left out: SQLite in `folder`.
        seconds: after which no further trial begins.

    Raises:
        SupernetError: if the storage cannot be used, or a configuration that a trial asks for, or
            another process tunes in `folder` and no storage to share is named, or `folder` holds
            trials of another plan.
    """
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with held(folder) if storage is None else nullcontext():
        return _tuned(plan, compose, source_of, folder, reporter, storage, seconds)


def _tuned(
    plan: Plan,
    compose: Compose,
    source_of: SourceOf,
    folder: Path,
    reporter: Reporter,
    storage: str | None,
    seconds: float | None,
) -> dict[str, Any]:
    begun = time.monotonic()
    config = compose(plan.overrides)
    phases, _ = build_recipe(config, build_space(config["space"]))
    study = _study(plan, folder, storage or f"sqlite:///{folder / DATABASE}", phases)
    missing = plan.trials - _num_ended(study)
    reporter.note(f"{max(missing, 0)} of {plan.trials} trials to go, {study.study_name}")

    def objective(trial: optuna.Trial) -> float:
        overrides = overrides_of(trial, plan.search)
        trial.set_user_attr("overrides", overrides)
        config = compose([*plan.overrides, *overrides, "evaluate=epoch"])
        start = time.monotonic()
        try:
            words = ["supernet", "train", *plan.overrides, *overrides]
            launch = Launch(command=shlex.join(words), varied=varied_by(overrides))
            return _trained(trial, config, source_of(config), folder, launch)
        except Diverged:
            trial.set_user_attr("diverged", True)
            raise
        finally:  # by a clock that nobody sets, unlike Optuna's
            trial.set_user_attr("seconds", time.monotonic() - start)

    def after(study: optuna.Study, trial: FrozenTrial) -> None:
        reporter.note(_line(trial, study))
        late = seconds is not None and time.monotonic() - begun >= seconds
        if late or _num_ended(study) >= plan.trials:
            study.stop()

    if missing > 0:
        try:
            study.optimize(objective, catch=(Diverged,), callbacks=[after])
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"{folder} keeps finished trials; go on with the same command"
            ) from error
        except (optuna.exceptions.StorageInternalError, AssertionError) as error:
            failed = error.__context__ if isinstance(error, AssertionError) else error
            if not isinstance(failed, optuna.exceptions.StorageInternalError):
                raise  # Optuna's "Should not reach." comes where it cannot note a trial's end
            raise SupernetError(
                f"the storage {storage or folder / DATABASE} fails ({failed.__cause__ or failed}); "
                "finished trials are kept: repair it and give the same command again"
            ) from error
    found = _result(plan, study)
    write_json(folder / "tune.json", found)
    _draw(study, folder)
    return found


def _study(plan: Plan, folder: Path, url: str, phases: Sequence[Phase]) -> optuna.Study:
    """Open the study of `plan`, or begin it; `folder` keeps the plan and the name of its study.

    Raises:
        SupernetError: if `folder` holds trials of another plan, or the storage cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers: dict[str, Callable[[int], BaseSampler]] = {
        "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True),
        "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
        "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    }
    pruners = {
        "asha": lambda: optuna.pruners.SuccessiveHalvingPruner(1, 3),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(
            1, sum(phase.epochs for phase in phases), 3
        ),
        "none": optuna.pruners.NopPruner,
    }
    sampler = SamplerOfTrials(samplers[plan.sampler], plan.seed)
    with held_beside(folder / PLAN), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        name = _study_name(plan, folder)
        study = optuna.create_study(
            study_name=name, storage=_storage(url), sampler=sampler,
            pruner=pruners[plan.pruner](), direction="maximize", load_if_exists=True,
        )  # fmt: skip
        write_json(folder / PLAN, {"study": name, **plan.to_dict()})
    return study


def _study_name(plan: Plan, folder: Path) -> str:
    """Return the name of the study of `plan`: as `folder` says, or of its own name and the plan."""
    fields = plan.to_dict()
    text = json.dumps(fields)
    new = f"{folder.resolve().name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / PLAN).exists():
        if any(folder.glob("trial_*")):
            raise SupernetError(
                f"{folder} holds trials, and no {PLAN} says of which plan; name another --out"
            )
        return new
    known = read_json(folder / PLAN, error=SupernetError)
    known = known if isinstance(known, dict) else {}
    others = [name for name in fields if known.get(name) != json.loads(text)[name]]
    if not others and isinstance(known.get("study"), str):
        return str(known["study"])
    if any(folder.glob("trial_*")):
        raise SupernetError(
            f"{folder} holds trials of another plan, with other {', '.join(others) or 'fields'}; "
            "take that plan again, or name another --out"
        )
    return new


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Open a storage; several that find it empty at once all make it, so it is tried again."""
    local = {"connect_args": {"timeout": LOCKED_SECONDS}} if url.startswith("sqlite") else None
    for wait in (*RETRY_SECONDS, None):
        try:
            return optuna.storages.RDBStorage(
                url, local, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
        except Exception as error:  # SQLAlchemy raises many kinds
            if wait is None or not isinstance(error, DBAPIError):
                raise SupernetError(f"storage {url}: {error}") from error
            time.sleep(wait)
    raise AssertionError


class SamplerOfTrials(BaseSampler):
    """Draws each trial by a sampler of its own, seeded by its number.

    Processes that share a study so draw different trials, and one that goes on draws as one that
    was never stopped.

    Args:
        make: from a seed to a sampler.
        seed: of the plan.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make, self.seed = make, seed
        self.sampler = self._made(-1)

    def _made(self, number: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self.make(zlib.crc32(f"{self.seed}/{number}".encode()))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Make the sampler of the trial."""
        self.sampler = self._made(trial.number)
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the names that are drawn together."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw these."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:  # fmt: skip
        """Draw one name by itself."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState,
        values: Sequence[float] | None,
    ) -> None:  # fmt: skip
        """Let the sampler note how the trial ended."""
        self.sampler.after_trial(study, trial, state, values)


def _kind(trial: FrozenTrial) -> str:
    """Return how a trial ended; one that was killed is neither of `KINDS` and is made up for."""
    if trial.user_attrs.get("diverged"):
        return "diverged"
    return NAMES.get(trial.state, trial.state.name.lower())


def _num_ended(study: optuna.Study) -> int:
    return sum(_kind(trial) in KINDS for trial in study.get_trials(deepcopy=False))


def _trained(
    trial: optuna.Trial, config: dict[str, Any], source: ModelSource, folder: Path, launch: Launch
) -> float:
    """Train and return the last report."""
    reports: list[float] = []

    def watch(top1: Mapping[str, float]) -> None:
        reports.append(fmean(top1.values()))
        trial.report(reports[-1], len(reports))
        if trial.should_prune():
            raise optuna.TrialPruned

    place = folder / f"trial_{trial.number}"
    training.start(config, place, SILENT, source=source, watch=watch, launch=launch)
    return reports[-1]


def _line(trial: FrozenTrial, study: optuna.Study) -> str:
    value = "" if trial.value is None else f" {100 * trial.value:.2f} %"
    ended = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    best = max((t.value for t in ended if t.value is not None), default=None)
    known = "" if best is None else f"; best {100 * best:.2f} %"
    seconds = trial.user_attrs.get("seconds", 0.0)
    words = " ".join(trial.user_attrs.get("overrides", []))
    return f"trial {trial.number} {_kind(trial)}{value}, {seconds:.1f} s{known}: {words}"


def _result(plan: Plan, study: optuna.Study) -> dict[str, Any]:
    trials = study.get_trials(deepcopy=False)
    begun = [trial.datetime_start for trial in trials if trial.datetime_start]
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = max(ended, key=lambda trial: trial.value or 0.0, default=None)
    return {
        "sampler": plan.sampler,
        "pruner": plan.pruner,
        "overrides": list(plan.overrides),
        "count": {kind: sum(_kind(trial) == kind for trial in trials) for kind in KINDS},
        "best": None if best is None else {
            "trial": best.number, "top1": best.value, "overrides": best.user_attrs["overrides"],
        },
        "importances": _importances(study, ended),
        "trials": [
            {
                "number": trial.number, "state": _kind(trial), "params": trial.params,
                "top1": trial.value,
                "reports": [value for _, value in sorted(trial.intermediate_values.items())],
                "begun": (trial.datetime_start - min(begun)).total_seconds(),
                "ended": (trial.datetime_start - min(begun)).total_seconds()
                + trial.user_attrs.get("seconds", 0.0),
            }
            for trial in trials
            if trial.datetime_start and trial.datetime_complete
        ],
    }  # fmt: skip


def _importances(study: optuna.Study, ended: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return how much each name matters that every trial has; empty for too few trials."""
    names = set.intersection(*(set(trial.params) for trial in ended)) if ended else set()
    if len(ended) < 4 or len({trial.value for trial in ended}) < 2 or not names:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(study, params=sorted(names))


def _draw(study: optuna.Study, folder: Path) -> None:
    """Draw the history and the importances."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as pictures

    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    importances = _importances(study, ended)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ended:
            pictures.plot_optimization_history(study)
            _save_picture(folder / "history.png")
        if importances:
            pictures.plot_param_importances(study, params=sorted(importances))
            _save_picture(folder / "importances.png")
        plt.close("all")


def _save_picture(path: Path) -> None:
    import matplotlib.pyplot as plt

    with whole(path) as beside:
        plt.savefig(beside, dpi=120, bbox_inches="tight", format="png")
