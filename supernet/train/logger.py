"""The folder of a run in training: checkpoints, TensorBoard and progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from supernet.data.preprocess import Preprocess
from supernet.io.atomic import write_json, written
from supernet.io.reporter import Reporter, in_short
from supernet.io.version import tool_version
from supernet.train import checkpoint
from supernet.train.gates.target import Target
from supernet.train.gates.tensorboard import show_gates
from supernet.train.interrupt import Stopping
from supernet.train.phases import Phase
from supernet.train.position import Position
from supernet.train.step import Training

COLUMNS = (
    "device", "budget_ms", "predicted_ms", "measured_ms", "met", "top1", "macs", "params", "path"
)  # fmt: skip


def show_phase(writer: SummaryWriter, phase: Phase, step: int) -> None:
    """Describe a phase at the step where it begins."""
    subnets = [f"{phase.subnets} {phase.drawn}"] * (phase.subnets > 0)
    subnets += ["the smallest"] * phase.smallest + ["the largest as teacher"] * phase.teach
    tied = ", depths and expand ratios tied" if phase.tied else ""
    text = (
        f"**{phase.name}** from step {step}: {phase.epochs} epochs, {' + '.join(subnets)} in each "
        f"step, of {in_short(phase.space.size)} architectures{tied}; learning rate {phase.lr:g}"
    )
    writer.add_text("phase", text, step)


def show_images(writer: SummaryWriter, images: Tensor, preprocess: Preprocess) -> None:
    """Show normalised training images `[N, C, H, W]` as the net sees them: augmented."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels = (images.cpu() * std + mean).clamp(0, 1)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]
    writer.add_images("images/augmented", pixels, 0)


def show_settings(
    writer: SummaryWriter, varied: Mapping[str, str], top1: Mapping[str, float], step: int
) -> None:
    """Write the settings that vary in a sweep, beside the last accuracies."""
    values = {name: _number(text) for name, text in varied.items()}
    metrics = {f"sweep/{name}": value for name, value in top1.items()}
    writer.add_hparams(values, metrics, run_name=".", global_step=step)


def show_subnets(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show finished subnets: a table as text, and accuracy by budget, a step a microsecond."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(_cell(row.get(name)) for name in COLUMNS) for row in rows]
    with written(folder), SummaryWriter(str(folder)) as writer:
        writer.add_text("subnets", "\n".join(f"| {line} |" for line in lines))
        for row in rows:
            if row.get("budget_ms") is not None:
                at = round(1000 * row["budget_ms"])
                writer.add_scalar(f"test_top1_by_budget_us/{row['device']}", row["top1"], at)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _number(text: str) -> float | str:
    """Return a number where there is one, so that TensorBoard sorts it as such."""
    try:
        return float(text)
    except ValueError:
        return text


Watch = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """The command that started a run and, in a sweep, the settings that vary."""

    command: str = ""
    varied: Mapping[str, str] = field(default_factory=dict)


UNKNOWN_LAUNCH = Launch()


def varied_by(overrides: Sequence[str]) -> dict[str, str]:
    """Return the settings of Hydra overrides such as `seed=3`."""
    pairs = (word.lstrip("+~").partition("=") for word in overrides)
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to train: its folder, its configuration and its observers.

    Args:
        folder: such as `runs/demo`.
        config: the whole configuration.
        reporter: shows the progress.
        launch: the command.
        watch: called with the accuracies whenever there are some.
    """

    folder: Path
    config: Mapping[str, Any]
    reporter: Reporter
    launch: Launch = UNKNOWN_LAUNCH
    watch: Watch | None = None


class RunFolder:
    """Takes the reports of `fit` (`loop.Run`) and keeps them in the folder of `job`."""

    def __init__(self, job: Job, training: Training, position: Position, stop: Stopping) -> None:
        self.job, self.stop = job, stop
        self.phase = ""
        self.top1: tuple[int, Mapping[str, float]] = (0, {})
        self.meta = {
            **checkpoint.shape_of(training.net),
            "preprocess": training.data.preprocess.to_dict(),
            "classes": list(training.data.classes),
            "images": training.data.parts.to_dict(),
            "config": dict(job.config),
            "supernet": tool_version(),
            "command": job.launch.command,
            "varied": dict(job.launch.varied),
        }
        job.folder.mkdir(parents=True, exist_ok=True)
        write_json(job.folder / "config.json", self.meta["config"])
        self.num_steps, self.first_step = training.num_steps, position.step
        board = job.folder / "tensorboard"
        self.writer = SummaryWriter(str(board), purge_step=self.first_step or None)
        self.saved = time.monotonic()
        self.shown = ExitStack()

    def __enter__(self) -> RunFolder:
        progress = self.job.reporter.progress("training", self.num_steps)
        self.progress = self.shown.enter_context(progress)
        self.progress.update(self.first_step)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the progress and flush TensorBoard."""
        self.shown.close()
        if error is None and self.job.launch.varied and self.top1[1]:
            step, top1 = self.top1
            show_settings(self.writer, self.job.launch.varied, top1, step)
        self.writer.close()

    def show_images(self, images: Tensor, preprocess: Preprocess) -> None:
        """Show some of the images that the net is trained on."""
        show_images(self.writer, images, preprocess)

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Write scalars and move the bar on."""
        if phase.name != self.phase:
            self.phase = phase.name
            show_phase(self.writer, phase, step)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        loss = metrics.get("loss/random", metrics.get("loss/largest", float("nan")))
        text = f"{phase.name:<8} loss {loss:.3f}"
        self.progress.update(step + 1, text)

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Show the gates at the last step done; a resume drops values of the next one."""
        show_gates(self.writer, targets, step - 1)

    def due(self) -> bool:
        """Whether the last checkpoint is too old."""
        return time.monotonic() - self.saved >= 60 * self.job.config["save_minutes"]

    def stopping(self) -> bool:
        """Whether training was asked to end."""
        return self.stop.asked

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint, after the log of its steps, so that a kill leaves both."""
        self.writer.flush()
        checkpoint.save(self.job.folder / checkpoint.FILE, {**self.meta, **state})
        self.saved = time.monotonic()

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        """Show the accuracies at the last step done; on the screen, after a phase alone."""
        for name, value in top1.items():
            self.writer.add_scalar(f"held_out_top1/{name}", value, step - 1)
        if last:
            parts = ", ".join(f"{name} {100 * value:.1f} %" for name, value in top1.items())
            self.job.reporter.note(f"phase {phase.name} done: validation top-1 {parts}")
        self.top1 = step, top1
        if self.job.watch is not None:
            self.job.watch(top1)


class Silent:
    """`loop.Run` of the other processes of a training, which keep nothing."""

    def __init__(self, stop: Stopping) -> None:
        self.stop = stop

    def due(self) -> bool:
        return False  # the first process saves

    def stopping(self) -> bool:
        return self.stop.asked

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None: ...

    def gates_moved(self, targets: Sequence[Target], step: int) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None: ...
