"""What a training may be given besides phases: mixing, noise, averages, precision, processes."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from supernet.cli.hydra_config import composed
from supernet.data.augment import mix, rand_augment
from supernet.data.batches import Augment, Batch, train_batches
from supernet.data.parts import divide
from supernet.data.synthetic import synthetic
from supernet.errors import DataError, SupernetError
from supernet.io.reporter import SILENT, Reporter
from supernet.nn.drop import Noise
from supernet.nn.supernet import SuperNet
from supernet.space.stage import Stage
from supernet.train import checkpoint
from supernet.train import job as training
from supernet.train.build import build_optimizer, build_recipe, build_steps, build_teacher
from supernet.train.distributed import ALONE, Ranks
from supernet.train.logger import RunFolder
from supernet.train.loop import batches_from, draw_at
from supernet.train.phases import Phase
from supernet.train.position import START
from supernet.train.step import Passes, Precision, Training, weight_step
from supernet.train.strategies import Taught
from tests.builders import DEFAULT, small_space, start_run, tiny_config, tiny_space, tiny_table
from tests.train.test_loop import same

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def weights_of(config: dict[str, Any], folder: Path, stop_at: int | None = None) -> dict[str, Any]:
    """Train, if asked stopped after so many epochs and resumed; return the checkpoint."""
    reporter = SILENT
    if stop_at is None:
        start_run(config, folder, reporter)
        return checkpoint.read(folder)
    save, count = checkpoint.save, 0

    def stopping(path: Path, content: Any) -> None:
        nonlocal count
        save(path, content)
        count += 1
        if count == stop_at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            start_run(config, folder, reporter)
    training.resume(folder, reporter)
    return checkpoint.read(folder)


# ---- recipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["progressive", "sandwich", "random", "compound"])
def test_every_recipe_trains_the_last_phase_it_names(recipe: str) -> None:
    space = small_space()
    phases, strategy = build_recipe(composed([f"recipe={recipe}"]), space)
    net = SuperNet(space, 4).train()
    data = divide(synthetic(size=16))
    part = data.train.take(torch.arange(8))
    batch = Batch(data.preprocess.normalise(part.pixels), part.labels)
    phase = phases[-1]
    drawn: list[Any] = []

    def draw(place: int) -> Any:
        drawn.append(phase.space.sample(random.Random(place)))
        return drawn[-1]

    passes = Passes(net, Precision(None, CPU))
    losses = list(strategy.losses(passes, batch, phase=phase, draw=draw))
    assert len(losses) == phase.nets
    assert len(drawn) == phase.subnets
    assert [name for name, _, _ in losses].count("largest") == phase.teach
    wants = {"progressive": (0, 0, 1), "sandwich": (1, 1, 1), "random": (0, 0, 1),
             "compound": (1, 0, 2)}  # fmt: skip
    assert (phase.teach, phase.smallest, phase.subnets) == wants[recipe]
    assert phase.tied == (recipe == "compound")


def test_a_tied_phase_couples_depth_and_width() -> None:
    """CompOFA, table 1: as many choices a stage as there are depths (times free kernels)."""
    stages = (
        Stage(width=8, stride=1, depths=(1, 2)),
        Stage(width=8, stride=1, depths=(2,)),
        Stage(width=8, stride=1, depths=(0, 1, 3)),
    )
    space = small_space(kernel_sizes=(3,), stages=stages, resolutions=(8,))
    phase = Phase(name="compound", space=space, epochs=1, lr=0.1, tied=True)
    rng = random.Random(0)
    drawn = {phase.sample(rng) for _ in range(2000)}
    assert len(drawn) == 2 * (2 * 2) * (1 + 1 + 1)
    assert {space.largest(), space.smallest()} <= drawn
    for arch in drawn:
        assert arch in space
        first, last = ([op for op in arch.ops[w] if op] for w in (slice(0, 2), slice(4, 7)))
        assert {op.expand_ratio for op in first} == {(2.0, 3.0)[len(first) - 1]}
        assert {op.expand_ratio for op in last} == {0: set(), 1: {2.0}, 3: {3.0}}[len(last)]


# ---- mixing ------------------------------------------------------------------------------------


def test_mixing_is_a_function_of_position_and_leaves_the_globals_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(7, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    state = random.getstate(), str(np.random.get_state())
    fields: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "classes": 3}
    one = mix(images, labels, position="1", **fields)
    assert (random.getstate(), str(np.random.get_state())) == state
    for got, want in zip(one, mix(images, labels, position="1", **fields), strict=True):
        assert torch.equal(got, want)
    others = [mix(images, labels, position=str(n), **fields)[0] for n in range(2, 6)]
    assert not any(torch.equal(one[0], other) for other in others)
    torch.testing.assert_close(one[1].sum(1), torch.ones(7))
    assert torch.equal(one[0][6], images[6]), "the odd one stays"
    assert not torch.equal(one[0][:6], images[:6])


def test_mixup_is_its_definition() -> None:
    images = torch.stack([torch.full((1, 2, 2), float(n)) for n in range(4)])
    labels = torch.arange(4)
    mixed, soft = mix(images, labels, mixup=1.0, cutmix=0.0, classes=4, position="a")
    for n in range(4):
        share = soft[n, n] if n != 3 - n else 1.0
        torch.testing.assert_close(mixed[n].mean(), share * n + (1 - share) * (3 - n))


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_changes_images_by_position(channels: int) -> None:
    data = divide(synthetic(per_class=4, size=16))
    pixels = data.train.take(torch.arange(6)).pixels[:, :channels]
    one = rand_augment(pixels, "rand-m9-n2", "1")
    assert one.shape == pixels.shape
    assert one.dtype == torch.uint8
    assert torch.equal(one, rand_augment(pixels, "rand-m9-n2", "1"))
    assert not torch.equal(one, pixels)
    assert not torch.equal(one, rand_augment(pixels, "rand-m9-n2", "2"))


@pytest.mark.parametrize("fields", [{"randaugment": "nope"}, {"mixup": -1.0}, {"cutmix": -0.1}])
def test_bad_augmentation_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(fields))):
        Augment(**fields)
    with pytest.raises(DataError, match="1 or 3 channels"):
        rand_augment(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "rand-m9-n2", "1")


def test_batches_are_mixed_after_they_are_normalised() -> None:
    data = divide(synthetic(per_class=8, size=8))
    batches = train_batches(
        data.train, data.preprocess, batch_size=8, augment=Augment(mixup=1.0), seed=0, epoch=0,
        device=CPU,
    )  # fmt: skip
    for batch in batches:
        assert batch.labels.shape == (len(batch.images), data.num_classes)
        torch.testing.assert_close(batch.labels.sum(1), torch.ones(len(batch.images)))


# ---- noise, averages, precision ----------------------------------------------------------------


def test_noise_drops_its_share_and_keeps_the_mean() -> None:
    noise = Noise(0.25, 0.5, torch.Generator().manual_seed(0))
    features = noise.features(torch.ones(100, 100))
    assert sorted(features.unique().tolist()) == pytest.approx([0.0, 1 / 0.75])
    assert features.mean() == pytest.approx(1.0, abs=0.03)
    dropped = noise.branch(torch.ones(4000, 2, 1, 1), place=0.5)
    assert (dropped[:, 0] == dropped[:, 1]).all(), "a branch goes as a whole"
    assert (dropped == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(noise.branch(torch.ones(5, 1, 1, 1), place=0.0), torch.ones(5, 1, 1, 1))


def test_dropped_branches_are_those_of_residual_blocks() -> None:
    """With every branch dropped, blocks with a shortcut pass their input on."""
    space = small_space()
    net = SuperNet(space, 4).eval()
    x = torch.randn(2, 3, 16, 16)
    arch = space.largest()
    block = net.blocks[1]
    y = torch.randn(2, 8, 8, 8)
    assert torch.equal(block(y, arch.ops[1], drop=torch.zeros_like), y)
    quiet = Noise(0.0, 0.0, torch.Generator())
    torch.testing.assert_close(net(x, arch, noise=quiet), net(x, arch))
    loud = Noise(0.0, 0.9, torch.Generator().manual_seed(0))
    assert not torch.equal(net(x, arch, noise=loud), net(x, arch))


def test_the_average_follows_the_weights_of_a_phase(tmp_path: Path) -> None:
    """From the start of a phase, with timm's warm-up; BN statistics are those of the last step."""
    seen: list[list[torch.Tensor]] = []
    log = RunFolder.log

    def noted(self: RunFolder, *rest: Any) -> None:
        log(self, *rest)
        seen.append([p.detach().clone() for p in begun[0].net.parameters()])

    begun: list[Training] = []
    fit = training.fit

    def kept(one: Training, *rest: Any) -> bool:
        begun.append(one)
        return fit(one, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "log", noted)
        patch.setattr(training, "fit", kept)
        start_run(tiny_config("ema=0.7"), tmp_path / "run")
    (done,) = begun
    steps = done.phases[-1].epochs * done.per_epoch
    wanted = seen[-steps]
    for number, weights in enumerate(seen[-steps:]):
        decay = min(0.7, 1 - (1 + number) ** (-2 / 3))
        wanted = [decay * w + (1 - decay) * p for w, p in zip(wanted, weights, strict=True)]
    assert done.ema is not None
    for got, want in zip(done.averaged.parameters(), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, done.averaged.buffers(), done.net.buffers()))


def test_bf16_computes_shorter_and_learns() -> None:
    precision = Precision("bf16", CPU)
    with precision.autocast():
        short = torch.randn(2, 2) @ torch.randn(2, 2)
    assert short.dtype == torch.bfloat16
    assert precision.widened(short).dtype == torch.float32
    net = SuperNet(tiny_space(), 4).train()
    arch = net.space.largest()
    images = torch.randn(4, 3, arch.resolution, arch.resolution)
    logits = Passes(net, precision)(images, arch, noisy=True)
    precision.backward(logits.square().sum())
    assert logits.dtype == torch.float32
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    with pytest.raises(SupernetError, match="amp is 'fp8'; allowed"):
        Precision("fp8", CPU)


def test_all_options_together_resume_to_the_last_bit(tmp_path: Path) -> None:
    config = tiny_config(
        "ema=0.9", "regularize.dropout=0.2", "regularize.drop_path=0.2", "micro_batches=2",
        "data.augment.mixup=0.4", "data.augment.cutmix=1.0",
        "data.augment.randaugment=rand-m5-n1", "recipe.strategy.divergence=alpha",
    )  # fmt: skip
    whole = weights_of(config, tmp_path / "whole")
    parts = weights_of(config, tmp_path / "parts", stop_at=1)
    for name in ("model", "training_model"):
        assert whole[name].keys() == parts[name].keys()
        for key, value in whole[name].items():
            assert torch.equal(value, parts[name][key]), (name, key)
    assert any(
        not torch.equal(whole["model"][key], whole["training_model"][key]) for key in whole["model"]
    ), "the average is what later commands see"


def test_micro_batches_take_the_gradient_of_the_whole() -> None:
    """Where BN does not couple images: one image twice."""
    data = divide(synthetic(per_class=4, size=8))
    x = data.preprocess.normalise(data.train.take(torch.arange(3)).pixels)
    batch = Batch(x.repeat_interleave(2, 0), data.train.labels[:3].repeat_interleave(2))
    assert [len(part.labels) for part in batch.parts(3)] == [2, 2, 2]
    assert [len(part.labels) for part in batch.parts(9)] == [2, 2, 2], "BN needs two images"
    assert [len(part.labels) for part in batch.parts(1)] == [6]


# ---- another teacher ---------------------------------------------------------------------------


def test_a_timm_network_teaches(tmp_path: Path) -> None:
    data = divide(synthetic(size=16))
    torch.manual_seed(0)
    made = timm.create_model("resnet10t", num_classes=data.num_classes, in_chans=data.in_chans)
    file = tmp_path / "teacher.ckpt"
    wrapped = {f"model.module.{name}": tensor for name, tensor in made.state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 3}, file)
    config = tiny_config()
    teacher = build_teacher(
        {**config, "teacher": {"model": "resnet10t", "weights": str(file)}}, data
    )
    assert teacher is not None
    assert not teacher.training
    x = torch.randn(2, data.in_chans, 32, 32)
    torch.testing.assert_close(teacher(x), made.eval()(x))
    passes = Passes(
        SuperNet(tiny_space(), data.num_classes), Precision(None, CPU), teaching=teacher
    )
    got = passes.teacher(x)
    assert got is not None
    assert not got.requires_grad


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "nope18", "weights": "x"}, "teacher.model is 'nope18'"),
        ({"model": "resnet10t", "weights": "/nowhere.safetensors"}, "teacher.weights: /nowhere"),
        ({"model": "resnet10t"}, "teacher lacks weights"),
    ],
)
def test_a_bad_teacher_is_one_line(fields: dict[str, str], message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        build_teacher({**tiny_config(), "teacher": fields}, divide(synthetic()))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("micro_batches=0", "micro_batches is 0"),
        ("ema=1.5", "ema is 1.5"),
        ("regularize.dropout=1", "dropout and drop_path must lie in 0..1"),
        ("recipe.strategy.divergence=js", "divergence is 'js'; allowed: kl, alpha"),
    ],
)
def test_bad_options_are_one_line(override: str, message: str) -> None:
    config = tiny_config(override)
    build = build_recipe if override.startswith("recipe") else build_steps
    args = [config, tiny_space()] if override.startswith("recipe") else [config]
    with pytest.raises(SupernetError, match=message):
        build(*args)


# ---- several processes -------------------------------------------------------------------------


def test_shares_make_up_the_batch() -> None:
    batch = Batch(torch.randn(5, 1, 2, 2), torch.arange(5))
    parts = [Ranks(rank, 2).share(batch) for rank in range(2)]
    assert sorted(torch.cat([part.labels for part in parts]).tolist()) == list(range(5))
    assert ALONE.share(batch) is batch
    assert Ranks(1, 3).share(batch) is batch, "BN needs two images in each process"
    gradient = torch.ones(2)
    ALONE.average_([gradient])
    assert torch.equal(gradient, torch.ones(2))


def torchrun(script: Path, *words: object, cwd: Path) -> str:
    """Run `script` in two processes and return what they print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "--master-port", str(port), script, *map(str, words)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_train_one_net(tmp_path: Path) -> None:
    """`torchrun train.py`: one run, kept and announced once."""
    folder = tmp_path / "runs" / "both"
    words = [
        "experiment=smoke", "data=synthetic", "space=tiny", "epoch_batches=2", "batch_size=8",
        "space.resolutions=[8,16]", "name=both", "threads=1", "device=cpu",
    ]  # fmt: skip
    said = torchrun(ROOT / "train.py", *words, cwd=tmp_path)
    assert checkpoint.read(folder)["position"]["phase"] == 4, "the default recipe has four"
    assert "2 x 1 threads" in " ".join(said.split())
    assert said.count("done: supernet info") == 1


def test_two_processes_end_with_the_same_weights_also_after_a_resume(tmp_path: Path) -> None:
    """By the default recipe, with gates and an average; stopped by a signal to one process."""
    tiny_table().save(tmp_path / "T.json")
    words = [
        *(word for word in DEFAULT if not word.startswith("name=")), "ema=0.9", "gates.share=0.5",
        f"targets=[{{table:{tmp_path / 'T.json'},budget_ms:0.3}}]", "gates.warmup_epochs=0",
        "name=unused",
    ]  # fmt: skip
    script = Path(__file__).with_name("interrupted.py")

    def ended(what: str, name: str) -> dict[str, torch.Tensor]:
        torchrun(script, what, name, *words, cwd=tmp_path)
        one, other = (torch.load(tmp_path / f"runs/{name}.{rank}.pt") for rank in range(2))
        same(one, other)
        return one

    whole, stopped, resumed = ended("whole", "a"), ended("stop", "b"), ended("resume", "b")
    assert any(not torch.equal(stopped[name], whole[name]) for name in whole), "it was stopped"
    same(resumed, whole)
    once, again = (checkpoint.read(tmp_path / "runs" / name) for name in "ab")
    for part in ("model", "training_model", "optimizer", "gates", "position"):
        same(again[part], once[part], part)


@pytest.mark.parametrize(("setting", "message"), [
    ("optimizer.opt=adahessian", "optimizer: adahessian wants second derivatives"),
    ("optimizer.opt=lookahead_adahessian", "optimizer: adahessian wants second derivatives"),
    ("+optimizer.lr=0.1", "optimizer.lr has no effect"),
])  # fmt: skip
def test_an_optimizer_that_would_not_do_what_it_says_is_refused(setting: str, message: str) -> None:
    """One ended in a KeyError at the first step; the rate was left unused without a word."""
    config = composed([*DEFAULT, setting])
    with pytest.raises(SupernetError, match=message):
        build_optimizer(config, SuperNet(tiny_space(), 4))
    assert build_optimizer(composed([*DEFAULT, "optimizer.opt=lookahead_adam"]),
                           SuperNet(tiny_space(), 4))  # fmt: skip


@pytest.mark.parametrize("opt", ["adam", "adamw"])
def test_a_step_in_one_pass_is_the_step_in_many(opt: str) -> None:
    """Weights of all layouts and sizes, of which some have no gradient at first."""
    nets = [SuperNet(small_space(), 4).to(memory_format=torch.channels_last) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    fields = {"opt": opt, "weight_decay": 0.02}
    optimizers = [
        build_optimizer({"optimizer": {**fields, **form}}, net)
        for form, net in zip(({}, {"fused": False}), nets, strict=True)
    ]
    assert [one.defaults["fused"] for one in optimizers] == [True, False]
    space, labels = nets[0].space, torch.arange(4)
    for step in range(4):
        arch = space.smallest() if step < 2 else space.largest()
        images = torch.randn(4, 3, arch.resolution, arch.resolution)
        nets[0].zero_grad()
        torch.nn.functional.cross_entropy(nets[0](images, arch), labels).backward()
        for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            other.grad = None if one.grad is None else one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_training_without_numba_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "missing", lambda: "no module numba")
    notes: list[str] = []
    reporter = Reporter()
    monkeypatch.setattr(reporter, "note", notes.append, raising=False)
    start_run(tiny_config(), tmp_path / "run", reporter)
    line = next(note for note in notes if note.startswith("numba"))
    assert "(no module numba)" in line
    assert line.endswith("pip install numba")


def test_rates_fall_towards_the_stem() -> None:
    """As timm scales them: by a factor for each block."""
    config = composed([*DEFAULT, "optimizer.layer_decay=0.5"])
    net = SuperNet(tiny_space(), 4)
    optimizer = build_optimizer(config, net)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    scales = {
        names[id(parameter)].rpartition(".")[0]: group["lr_scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert scales["tail.classifier"] == 1
    depth = len(net.blocks)
    for number in range(depth):
        found = {scale for name, scale in scales.items() if name.startswith(f"blocks.{number}.")}
        assert found == {0.5 ** (depth - number)}
    assert scales["stem.conv_stem"] == 0.5 ** (depth + 1)
    whole = Training(
        net=net, phases=build_recipe(config, net.space)[0], strategy=Taught(), optimizer=optimizer,
        data=divide(synthetic(per_class=12, size=8)), config=build_steps(config),
    )  # fmt: skip
    batch, draw = next(batches_from(whole, START))[1], draw_at(whole, START)
    metrics = weight_step(whole, batch, phase=whole.phases[0], position=START, draw=draw)
    assert {group["lr"] for group in optimizer.param_groups} == {
        metrics.lr * scale for scale in scales.values()
    }
