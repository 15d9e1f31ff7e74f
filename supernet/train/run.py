"""A run's folder: checkpoint, configuration, TensorBoard, the progress on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from supernet.data.preprocess import Preprocess
from supernet.io.atomic import write_json
from supernet.io.console import progress_bar
from supernet.train import checkpoint
from supernet.train.board import show_images, show_phase, show_settings
from supernet.train.gate_board import show_gates
from supernet.train.phases import Phase
from supernet.train.signals import Stopping
from supernet.train.targets import Target

Watch = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What asked for a run: the command, and of one in a sweep the settings that vary."""

    command: str = ""
    varied: Mapping[str, str] = field(default_factory=dict)


UNKNOWN_LAUNCH = Launch()


def varied_by(overrides: Sequence[str]) -> dict[str, str]:
    """Return the settings of Hydra overrides such as `seed=3`."""
    pairs = (word.lstrip("+~").partition("=") for word in overrides)
    return {name: value for name, _, value in pairs}


class RunFolder:
    """Takes what `fit` reports (`loop.Run`) and keeps it in `folder`.

    Args:
        folder: such as `runs/demo`.
        meta: goes into every checkpoint: space, classes, preprocessing, configuration.
        num_steps: of the whole training, for the progress bar.
        first_step: where a resumed training starts.
        save_minutes: how long may pass between two checkpoints.
        stop: whether training was asked to end.
        console: where progress is shown.
        watch: called with the accuracies whenever there are some.
        varied: settings that set it apart in a sweep, for TensorBoard.
    """

    def __init__(
        self,
        folder: Path,
        *,
        meta: Mapping[str, Any],
        num_steps: int,
        first_step: int,
        save_minutes: float,
        stop: Stopping,
        console: Console,
        watch: Watch | None = None,
        varied: Mapping[str, str] | None = None,
    ) -> None:
        self.watch, self.varied = watch, varied
        self.phase = ""
        self.top1: tuple[int, Mapping[str, float]] = (0, {})
        self.folder, self.meta, self.console = folder, meta, console
        self.save_minutes, self.stop = save_minutes, stop
        self.saved = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", meta["config"])
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
        self.progress = progress_bar(console)
        self.task = self.progress.add_task("training", total=num_steps, completed=first_step)

    def __enter__(self) -> RunFolder:
        """Show the progress bar."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the progress bar and flush TensorBoard."""
        self.progress.stop()
        if error is None and self.varied and self.top1[1]:
            step, top1 = self.top1
            show_settings(self.writer, self.varied, top1, step)
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
        self.progress.update(self.task, advance=1, description=text)

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Show the gates in TensorBoard."""
        show_gates(self.writer, targets, step)

    def due(self) -> bool:
        """Whether the last checkpoint is too old."""
        return time.monotonic() - self.saved >= 60 * self.save_minutes

    def stopping(self) -> bool:
        """Whether training was asked to end."""
        return self.stop.asked

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.folder / checkpoint.FILE, {**self.meta, **state})
        self.saved = time.monotonic()

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        """Show the accuracies; on the screen those at the end of a phase."""
        for name, value in top1.items():
            self.writer.add_scalar(f"held_out_top1/{name}", value, step)
        if last:
            parts = ", ".join(f"{name} {100 * value:.1f} %" for name, value in top1.items())
            self.console.print(f"phase {phase.name} done: held-out top-1 {parts}")
        self.top1 = step, top1
        if self.watch is not None:
            self.watch(top1)


class Silent:
    """Takes the reports of the other processes of a training, which keep nothing."""

    def __init__(self, stop: Stopping) -> None:
        self.stop = stop

    def due(self) -> bool:
        """Never: the first process saves."""
        return False

    def stopping(self) -> bool:
        """Whether this process was asked to end."""
        return self.stop.asked

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Take nothing."""

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Take nothing."""

    def save(self, state: dict[str, Any]) -> None:
        """Take nothing."""

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        """Take nothing."""
