"""A training from start to end: build every part from plain configuration, or resume a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm

from supernet.data.batches import train_batches
from supernet.data.dataset import ImageData
from supernet.data.load import located
from supernet.errors import (
    KILLED_WORKER,
    CheckpointError,
    DataError,
    Diverged,
    SupernetError,
    is_killed_worker,
    shown,
)
from supernet.io.atomic import written
from supernet.io.cores import num_cores
from supernet.io.lock import held
from supernet.io.reporter import Reporter
from supernet.io.shell import override
from supernet.io.validate import construct
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.nn.compiled import missing
from supernet.nn.description import FAULTS
from supernet.nn.fixed import Net
from supernet.nn.supernet import SuperNet
from supernet.space.cost import Constraint
from supernet.train import checkpoint
from supernet.train.build import (
    build_optimizer,
    build_recipe,
    build_steps,
    build_teacher,
    pick_device,
)
from supernet.train.describe import describe
from supernet.train.distributed import Ranks, joined
from supernet.train.duration import fitted, paced
from supernet.train.gates.target import Target, new_target
from supernet.train.interrupt import Stopping
from supernet.train.logger import UNKNOWN_LAUNCH, Job, Launch, RunFolder, Silent, Watch
from supernet.train.loop import fit
from supernet.train.malloc import keep_freed_memory
from supernet.train.models import ModelSource
from supernet.train.position import START, Position
from supernet.train.run import Trained
from supernet.train.step import Training

WORTH_TIMING = 100
"""Steps from which it is worth a few more to say how long a training takes."""


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """A target of the configuration: a file of a latency table and a budget."""

    table: str
    budget_ms: float


def start(
    config: Mapping[str, Any],
    folder: Path,
    reporter: Reporter,
    *,
    source: ModelSource,
    watch: Watch | None = None,
    launch: Launch = UNKNOWN_LAUNCH,
) -> None:
    """Train a new network, as a rule a supernet, into `folder`.

    Args:
        config: the whole configuration.
        folder: of the run.
        reporter: told of its progress.
        source: loads the images and builds the network.
        watch: sees every evaluation.
        launch: kept in the checkpoint.

    Raises:
        SupernetError: if the configuration cannot be used, or `folder` holds a run.
    """
    with _held(folder) as ranks:
        if ranks.first:
            onward = override("resume", folder)
            checkpoint.check_free(folder, f"go on with {onward}, or choose another name=")
        folder = Path(ranks.agreed_text(str(folder)))
        config = {**config, "data": located(config["data"])}
        job = Job(folder=folder, config=config, reporter=reporter, launch=launch, watch=watch)
        _use_threads(config)
        data = source.data(config)
        torch.manual_seed(int(config["seed"]))
        training = _built(job, source.net(config, data, reporter), data, ranks)
        job, training = _timed(job, training, START)
        _run(job, training, START)


def resume(path: Path, reporter: Reporter, *, data_root: str | None = None) -> None:
    """Go on with the run in the folder `path` from its last checkpoint; the result is the same.

    Args:
        path: of the run.
        reporter: told of its progress.
        data_root: the folder where its images are now; None is where they were.

    Raises:
        SupernetError: if there is no such run, or its data or tables are not there any more.
    """
    folder = checkpoint.find(path).parent
    with _held(folder) as ranks:
        ranks.wait()  # for the first process to hold the run
        run = Trained.open(path)
        if data_root is not None and ranks.first:
            run.move_data(data_root)
        ranks.wait()  # for all to have read it
        state = run.content
        try:
            position = construct(Position, state.get("position"), "position")
        except SupernetError as error:
            raise CheckpointError(
                f"{run.file}: lacks the position of training ({error})"
            ) from error
        phases, _ = build_recipe(run.config, run.any_net.space)
        if position.phase >= len(phases):
            reporter.note(f"{folder} is trained to its end already")
            return
        launch = Launch(command=str(state.get("command", "")), varied=state.get("varied", {}))
        job = Job(folder=folder, config=run.config, reporter=reporter, launch=launch)
        _use_threads(run.config)
        if ranks.first and run.file.name == checkpoint.PREVIOUS:
            _set_aside(folder / checkpoint.FILE)
        training = _built(job, run.any_net, run.data, ranks)
        try:
            training.load_state_(state)
        except SupernetError:
            raise
        except FAULTS as error:
            raise CheckpointError(f"{run.file} cannot go on: {shown(error, 300)}") from error
        job, training = _timed(job, training, position)
        _run(job, training, position)


@contextmanager
def _held(folder: Path) -> Iterator[Ranks]:
    """Join the processes that train together; the first one holds the folder of the run."""
    with joined() as ranks, held(folder) if ranks.first else nullcontext():
        yield ranks


def _built(job: Job, net: Net, data: ImageData, ranks: Ranks) -> Training:
    """Build all parts of a training, on its device."""
    config = job.config
    if not config["save_minutes"] > 0:
        raise SupernetError(f"save_minutes is {config['save_minutes']}; it must be positive")
    keep_freed_memory()
    device = pick_device(str(config["device"]))
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config["sync_bn"] and ranks.count > 1:
        if device.type != "cuda":
            raise SupernetError(
                f"sync_bn=true wants GPUs, and this trains on {device}: torch's SyncBatchNorm "
                "refuses other tensors; leave it out, each process then normalises its own images"
            )
        net = convert_sync_batchnorm(net)
    phases, strategy = build_recipe(config, net.space)
    steps = build_steps(config)
    teacher = build_teacher(config, data)
    return Training(
        net=net, phases=phases, strategy=strategy, data=data, config=steps, ranks=ranks,
        optimizer=build_optimizer(config, net),
        teacher=None if teacher is None else teacher.to(device),
        targets=_targets(net, config, steps.gates.lr),
    )  # fmt: skip


def _targets(net: Net, config: Mapping[str, Any], lr: float) -> list[Target]:
    if not isinstance(net, SuperNet):
        return []  # its source has refused targets
    targets = []
    for number, fields in enumerate(config["targets"]):
        wanted = construct(TargetConfig, fields, f"targets[{number}]")
        table = LatencyTable.load(wanted.table)
        budget = Constraint(latency_costs(table, net.spec), float(wanted.budget_ms))
        targets.append(
            new_target(net, table_id=table.id, device=table.device.name, budget=budget, lr=lr)
        )
    return targets


def _timed(job: Job, training: Training, position: Position) -> tuple[Job, Training]:
    """Note the size of the network and how long training takes; make a new one fit its minutes.

    The epochs that fit are kept in the configuration of the run, so that a resume ends as it would
    have without a stop.
    """
    config, report = job.config, job.reporter
    describe(training.net, training.data, report)
    fits = config["minutes"] is not None and position == START
    lasts = ""
    if fits or training.num_steps - position.step >= WORTH_TIMING:
        with _in_one_line(job.folder):
            pace = paced(training)
        if fits:
            training = fitted(training, pace, config["minutes"])
            job = replace(job, config=_with_epochs(config, training))
        lasts = f", about {pace.seconds(training, position) / 60:.1f} minutes"
    count, threads = len(training.phases), torch.get_num_threads()
    report.note(
        f"training {training.num_steps - position.step} steps in {count} "
        f"phase{'s' * (count > 1)}{lasts} on {training.device}, {training.ranks.count} x {threads} "
        f"threads, into {job.folder}"
    )
    if training.device.type == "cpu" and missing() is not None:
        report.note(
            f"numba cannot be used ({missing()}), so a step takes up to twice as long: gradients "
            "of depthwise kernels are PyTorch's own; pip install numba"
        )
    return job, training


def _with_epochs(config: Mapping[str, Any], training: Training) -> dict[str, Any]:
    """Return the configuration with the epochs of a training that was made to fit a time."""
    named = zip(config["recipe"]["phases"].items(), training.phases, strict=True)
    phases = {
        name: {**fields, "epochs": phase.epochs, "warmup_steps": phase.warmup_steps}
        for (name, fields), phase in named
    }
    limit = training.config.epoch_batches
    return {**config, "epoch_batches": limit, "recipe": {**config["recipe"], "phases": phases}}


def _run(job: Job, training: Training, position: Position) -> None:
    """Train to the end, or until a signal asks to stop; the first process keeps the run."""
    with Stopping() as stop, _in_one_line(job.folder):
        if training.ranks.first:
            with RunFolder(job, training, position, stop) as run:
                if position == START:
                    run.show_images(_some_images(training), training.data.preprocess)
                ended = fit(training, run, position)
        else:
            ended = fit(training, Silent(stop), position)
    if not ended:
        raise KeyboardInterrupt(f"{job.folder} is saved; {checkpoint.onward(job.folder)}")


@contextmanager
def _in_one_line(folder: Path) -> Iterator[None]:
    """Turn expected errors of a training into a line that names a way to continue."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{error}; {_last_good(folder)}") from error
    except DataError as error:
        raise DataError(f"{error}; {checkpoint.onward(folder)}") from error
    except RuntimeError as error:
        if not is_killed_worker(error):
            raise
        raise DataError(f"{KILLED_WORKER} ({error}); {checkpoint.onward(folder)}") from error
    except OSError:
        with written(folder, again=checkpoint.onward(folder)):
            raise


def _some_images(training: Training) -> torch.Tensor:
    """Return the first images that training sees, augmented; 32 at most."""
    data, config = training.data, training.config
    batches = train_batches(
        data.train, data.preprocess, batch_size=min(32, config.batch_size), augment=config.augment,
        seed=config.seed, epoch=0, device=torch.device("cpu"), balance=config.balance, limit=1,
        classes=len(data.classes),
    )  # fmt: skip
    return next(batches).images


def _set_aside(damaged: Path) -> None:
    """Keep a damaged checkpoint from taking the place of the good one before it."""
    if damaged.exists():
        damaged.rename(damaged.with_name("checkpoint.damaged.pt"))


def _last_good(folder: Path) -> str:
    file = folder / checkpoint.FILE
    kept = f"the weights of before are in {file}" if file.exists() else "nothing was saved yet"
    return f"{kept}; train anew with a lower recipe.lr, or with clip_grad"


def _use_threads(config: Mapping[str, Any]) -> None:
    threads = config["threads"]
    if threads is None:  # torch counts cores that a container's limit does not let it use
        torch.set_num_threads(min(torch.get_num_threads(), num_cores()))
        return
    if not 1 <= int(threads) <= 1024:
        raise SupernetError(f"threads is {threads}; it must be 1 or more, or null")
    torch.set_num_threads(int(threads))
