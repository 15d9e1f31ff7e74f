"""Whole trainings on the card: precisions, resuming, kills, workers, and one rank of NCCL."""

from __future__ import annotations

import copy
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from timm.layers import convert_sync_batchnorm
from torch import multiprocessing, nn

from supernet.cli.hydra_config import composed
from supernet.data.batches import Augment, train_batches
from supernet.data.image_files import FileImages, Files
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.space.cost import cost_range
from supernet.space.net_spec import NetSpec
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.build import build_optimizer
from supernet.train.distributed import Ranks
from supernet.train.gates.step import GateConfig
from supernet.train.logger import RunFolder
from supernet.train.phases import Phase
from supernet.train.position import START
from supernet.train.step import Regularize, StepConfig, StepMetrics, Training, weight_step
from supernet.train.strategies import SubnetSampler, Taught
from tests.builders import (
    TINY,
    middle,
    random_net,
    small_space,
    start_run,
    tiny_config,
    tiny_space,
    tiny_table,
)
from tests.train.test_loop import Stop, same

pytestmark = pytest.mark.cuda

FORKS = pytest.mark.filterwarnings("ignore:.*is multi-threaded, use of fork:DeprecationWarning")
"""Python 3.12 warns of torch's worker processes, which touch nothing but files."""
PRECISIONS = [None, "bf16", "fp16"]


def cuda_config(*overrides: str) -> dict[str, Any]:
    return tiny_config("device=cuda", "ema=0.9", "save_minutes=0.0001", *overrides)


def with_targets(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add two targets, so that gates have a state as well."""
    table, space = tiny_table(), tiny_space()
    table.save(folder / "T.json")
    ends = cost_range(space, latency_costs(table, NetSpec(space=space, in_chans=3, num_classes=4)))
    budgets = [middle(ends, share) for share in (0.2, 0.7)]
    targets = [{"table": str(folder / "T.json"), "budget_ms": budget} for budget in budgets]
    return {**config, "targets": targets}


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, float]]:
    """The metrics of each step of the trainings that this process starts."""
    log, seen = RunFolder.log, {}

    def noting(self: RunFolder, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        log(self, step, phase, metrics)
        seen[step] = dict(metrics)

    monkeypatch.setattr(RunFolder, "log", noting)
    return seen


def losses(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("loss/")}


# ---- precisions --------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", PRECISIONS)
def test_a_training_begins_as_on_the_cpu_and_ends(
    amp: str | None, logged: dict[int, dict[str, float]], tmp_path: Path, full_precision: None
) -> None:
    """The first step's losses are float32's of the CPU; later ones drift apart by rounding."""
    start_run(tiny_config("device=cpu"), tmp_path / "cpu", SILENT)
    wanted = losses(logged[0])
    logged.clear()
    config = cuda_config() if amp is None else cuda_config(f"amp={amp}")
    start_run(config, tmp_path / "card", SILENT)
    assert losses(logged[0]) == pytest.approx(wanted, rel=1e-4 if amp is None else 2e-2)
    assert all(isfinite(value) for step in logged.values() for value in losses(step).values())
    kept = checkpoint.read(tmp_path / "card")
    assert kept["position"]["step"] == len(logged) == 15
    assert bool(kept["scaler"]) == (amp == "fp16")
    if amp == "fp16":
        assert kept["scaler"]["scale"] > 1
    assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())


def test_fp16_leaves_out_a_step_whose_gradients_overflow(
    logged: dict[int, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a scale so large that every gradient overflows at first."""
    init = torch.amp.GradScaler.__init__

    def huge(self: Any, device: str, **options: Any) -> None:
        init(self, device, **options, init_scale=2.0**60)

    monkeypatch.setattr(torch.amp.GradScaler, "__init__", huge)
    start_run(cuda_config("amp=fp16"), tmp_path / "run", SILENT)
    kept = checkpoint.read(tmp_path / "run")
    assert kept["scaler"]["scale"] == 2.0 ** (60 - 15), "all 15 steps were left out"
    assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())


@pytest.mark.parametrize("amp", [None, "bf16"])
def test_a_step_does_not_wait_for_the_card(amp: str | None) -> None:
    """From the images in memory to the optimizer; fp16's scaler has to wait."""
    net = random_net(small_space()).float().train().to("cuda", memory_format=torch.channels_last)
    phase = Phase(name="all", space=net.space, epochs=1, lr=0.01, subnets=2, smallest=True)
    config = StepConfig(
        batch_size=8, augment=Augment(pad=1, flip=True), seed=0, gates=GateConfig(), clip_grad=1.0,
        micro_batches=2, amp=amp, ema=0.9, regularize=Regularize(dropout=0.1, drop_path=0.1),
    )  # fmt: skip
    data = divide(synthetic(per_class=20, size=max(net.space.resolutions)))
    optimizer = build_optimizer({"optimizer": {"opt": "adamw"}}, net)
    one = Training(
        net=net, phases=[phase], strategy=Taught(hard_share=0.5), data=data, optimizer=optimizer,
        config=config,
    )  # fmt: skip
    batches = train_batches(
        data.train, data.preprocess, batch_size=8, augment=config.augment, seed=0, epoch=0,
        device=torch.device("cuda"),
    )  # fmt: skip

    def step() -> StepMetrics:
        draw = SubnetSampler(net.space.sample, 0, 0)
        return weight_step(one, next(batches), phase=phase, position=START, draw=draw)

    step()  # the first one prepares what later ones have
    torch.cuda.set_sync_debug_mode("error")
    try:
        metrics = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(isfinite(value) for value in metrics.read().values())


def test_images_are_flipped_and_cropped_on_the_card_as_on_the_cpu() -> None:
    pixels = torch.randint(0, 256, (12, 3, 20, 20), dtype=torch.uint8)
    augment = Augment(pad=3, flip=True)
    got = augment.pixels(pixels, "0", torch.device("cuda"))
    assert got.is_cuda
    assert torch.equal(got.cpu(), augment.pixels(pixels, "0"))


# ---- resuming ----------------------------------------------------------------------------------


def stop_at(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    log, left = RunFolder.log, [at]

    def stopping(self: RunFolder, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        log(self, step, phase, metrics)
        if left and step == left[0]:
            left.pop()
            raise Stop

    monkeypatch.setattr(RunFolder, "log", stopping)


@pytest.mark.parametrize("amp", PRECISIONS)
@pytest.mark.parametrize("at", [4, 9])
def test_resuming_gives_the_same_bits_with_deterministic_algorithms(
    amp: str | None, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deterministic: None
) -> None:
    config = cuda_config("gates.warmup_epochs=1", "gates.share=0.5", "regularize.dropout=0.1")
    config = with_targets({**config, "amp": amp}, tmp_path)
    start_run(config, tmp_path / "whole", SILENT)
    stop_at(monkeypatch, at)
    with pytest.raises(Stop):
        start_run(config, tmp_path / "run", SILENT)
    assert checkpoint.read(tmp_path / "run")["position"]["step"] == at
    training.resume(tmp_path / "run", SILENT)
    same(checkpoint.read(tmp_path / "run"), checkpoint.read(tmp_path / "whole"))


def test_without_them_resuming_goes_on_from_the_same_weights_and_images(
    logged: dict[int, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise there: the step after the stop differs by rounding alone."""
    start_run(cuda_config(), tmp_path / "whole", SILENT)
    whole = dict(logged)
    logged.clear()
    stop_at(monkeypatch, 9)
    with pytest.raises(Stop):
        start_run(cuda_config(), tmp_path / "run", SILENT)
    training.resume(tmp_path / "run", SILENT)
    assert logged.keys() == whole.keys()
    for step, metrics in whole.items():
        assert logged[step]["lr"] == metrics["lr"]
        assert losses(logged[step]) == pytest.approx(losses(metrics), rel=0.05), step


def _killed(config: dict[str, Any], folder: Path) -> None:
    """Train in a process of its own that is killed after step 7."""
    torch.use_deterministic_algorithms(True)
    log = RunFolder.log

    def dying(self: RunFolder, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        log(self, step, phase, metrics)
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.log = dying
    start_run(config, folder, SILENT)


def test_a_killed_training_ends_with_the_bits_of_one_that_was_not(
    tmp_path: Path, deterministic: None
) -> None:
    config = with_targets(cuda_config("amp=bf16"), tmp_path)
    child = multiprocessing.get_context("spawn").Process(
        target=_killed, args=(config, tmp_path / "run")
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert checkpoint.read(tmp_path / "run")["position"]["step"] == 7
    training.resume(tmp_path / "run", SILENT)
    start_run(config, tmp_path / "whole", SILENT)
    same(checkpoint.read(tmp_path / "run"), checkpoint.read(tmp_path / "whole"))


def test_a_run_of_the_card_goes_on_without_one(tmp_path: Path) -> None:
    """The checkpoint holds no tensor that only a card can read."""
    start_run(cuda_config("amp=bf16"), tmp_path / "run", SILENT)
    held = torch.load(tmp_path / "run" / checkpoint.FILE, map_location="cpu", weights_only=True)
    assert held["model"].keys()
    content = checkpoint.read(tmp_path / "run")
    assert not any(tensor.is_cuda for tensor in content["model"].values())


# ---- images from files -------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(24):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "train" / label / f"{number}.png")
    return tmp_path


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_read_from_files_lie_in_pinned_memory(pictures: Path, workers: int) -> None:
    files = Files(sorted(pictures.glob("train/*/*.png")))
    images = FileImages(
        files=files, labels=torch.arange(len(files)), size=16, in_chans=3, workers=workers
    )
    parts = torch.arange(len(files)).split(10)
    for part, got in zip(parts, images.stream(parts), strict=True):
        assert got.pixels.is_pinned()
        assert torch.equal(got.pixels, images.take(part).pixels)
        assert torch.equal(got.pixels.to("cuda", non_blocking=True).cpu(), got.pixels)


@FORKS
def test_a_training_from_files_does_not_depend_on_workers(
    pictures: Path, tmp_path: Path, deterministic: None
) -> None:
    """Workers read ahead into pinned memory while the card computes."""
    runs = []
    for workers in (0, 2):
        kept = [word for word in TINY if not word.startswith("data")]
        config = composed([
            *kept, "device=cuda", "data=folder", f"data.root={pictures}", "data.memory_gb=0",
            f"data.workers={workers}", "recipe.phases.all.epochs=1",
        ])  # fmt: skip
        start_run(config, tmp_path / f"{workers}", SILENT)
        runs.append(checkpoint.read(tmp_path / f"{workers}")["model"])
    same(runs[1], runs[0])


# ---- several processes, of which there is one --------------------------------------------------


@contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone, with NCCL for the card and Gloo for the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=where, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensors_of_either_device_are_exchanged(device: str) -> None:
    """`Ranks` of two, so that it asks the library, in a group of one, whose sums are its own."""
    ranks = Ranks(0, 2)
    with one_rank():
        x = torch.arange(5.0, device=device)
        assert torch.equal(ranks.sum_(x.clone()), x)
        assert torch.equal(ranks.agreed(x.clone()), x)
        mean = [x.clone()]
        ranks.average_(mean)
        assert torch.equal(mean[0], x / 2)
        assert [ranks.any(True), ranks.any(False)] == [True, False]
        ranks.wait()


@pytest.mark.parametrize("keep_stats", [False, True])
def test_synchronised_norms_of_one_process_are_plain_norms(
    keep_stats: bool, full_precision: None
) -> None:
    net = random_net(small_space()).float().train().to("cuda")
    twin = convert_sync_batchnorm(copy.deepcopy(net))
    with one_rank():
        for plain, block in zip(net.blocks, twin.blocks, strict=True):
            assert any(isinstance(module, nn.SyncBatchNorm) for module in block.modules())
            for op in plain.spec.ops:
                x = torch.randn(6, plain.spec.in_width, 9, 9, device="cuda")
                found = [side(x, op, keep_stats=keep_stats) for side in (block, plain)]
                torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
                for y in found:
                    y.square().mean().backward()
    for (name, one), two in zip(twin.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name)
    for name, buffer in net.named_buffers():
        if buffer.is_floating_point():
            other = dict(twin.named_buffers())[name]
            torch.testing.assert_close(other, buffer, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("amp", PRECISIONS)
def test_a_training_with_synchronised_norms_ends(
    amp: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def joined() -> Iterator[Ranks]:
        with one_rank():
            yield Ranks(0, 2)

    monkeypatch.setattr(training, "joined", joined)
    config = {**cuda_config("sync_bn=true"), "amp": amp}
    start_run(config, tmp_path / "run", SILENT)
    kept = checkpoint.read(tmp_path / "run")
    assert kept["position"]["step"] == 15
    assert all(torch.isfinite(tensor).all() for tensor in kept["model"].values())
