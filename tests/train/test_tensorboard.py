"""What a training leaves for TensorBoard besides the scalars of its steps."""

from __future__ import annotations

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from supernet.train import checkpoint
from supernet.train.logger import Launch, show_subnets, varied_by
from tests.builders import TextReporter, start_run, tiny_config


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def texts(log: EventAccumulator, name: str) -> list[str]:
    return [e.tensor_proto.string_val[0].decode() for e in log.Tensors(f"{name}/text_summary")]


def test_losses_phases_and_images_are_shown(tmp_path: Path, reporter: TextReporter) -> None:
    start_run(tiny_config(), tmp_path / "run", reporter)
    log = events(tmp_path / "run" / "tensorboard")
    scalars = set(log.Tags()["scalars"])
    assert {"loss/largest", "loss/random", "held_out_top1/largest"} <= scalars
    first, second = texts(log, "phase")
    assert first.startswith("**largest** from step 0: 2 epochs")
    assert second.startswith("**all**")
    assert "2 random + the largest as teacher" in second
    assert len(log.Images("images/augmented")) == 1
    begins = log.Tensors("phase/text_summary")[1].step
    assert log.Scalars("loss/largest")[0].step == 0, "alone, it is the largest that is drawn"
    assert min(event.step for event in log.Scalars("loss/random")) == begins > 0


def test_the_smallest_subnet_has_a_loss_of_its_own(tmp_path: Path, reporter: TextReporter) -> None:
    config = tiny_config("recipe.phases.all.smallest=true")
    start_run(config, tmp_path / "run", reporter)
    log = events(tmp_path / "run" / "tensorboard")
    assert {"loss/largest", "loss/smallest", "loss/random"} <= set(log.Tags()["scalars"])


def test_a_run_of_a_sweep_shows_its_settings_and_keeps_its_command(
    tmp_path: Path, reporter: TextReporter
) -> None:
    words = ["seed=3", "+data.augment.mixup=0.2", "recipe=random"]
    launch = Launch(command="supernet train seed=3", varied=varied_by(words))
    assert launch.varied == {"seed": "3", "data.augment.mixup": "0.2", "recipe": "random"}
    start_run(tiny_config(), tmp_path / "run", reporter, launch=launch)
    log = events(tmp_path / "run" / "tensorboard")
    assert {"sweep/largest", "sweep/smallest"} <= set(log.Tags()["scalars"])
    assert "_hparams_/session_start_info" in log.summary_metadata
    assert checkpoint.read(tmp_path / "run")["command"] == "supernet train seed=3"


def test_a_run_by_itself_has_no_sweep(trained_run: Path) -> None:
    assert (
        "_hparams_/session_start_info" not in events(trained_run / "tensorboard").summary_metadata
    )


def test_finished_subnets_are_a_table_and_accuracies_by_budget(
    tmp_path: Path,
) -> None:
    row = {"device": "onnxruntime-fp32-1thread", "budget_ms": 0.55, "predicted_ms": 0.5,
           "measured_ms": 0.4, "met": "yes", "top1": 0.75, "macs": 1, "params": 1,
           "path": "a|b"}  # fmt: skip
    show_subnets(tmp_path, [row])
    log = events(tmp_path)
    (text,) = texts(log, "subnets")
    assert "| onnxruntime-fp32-1thread | 0.55 | 0.5 | 0.4 | yes |" in text
    assert "a\\|b" in text
    (point,) = log.Scalars("test_top1_by_budget_us/onnxruntime-fp32-1thread")
    assert (point.step, torch.tensor(point.value)) == (550, torch.tensor(0.75))
