"""The arms of `fashion.py`: ours by recipe, once-for-all's own layers, nets alone."""

from __future__ import annotations

import copy
import random
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import CosineParamScheduler
from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
from ofa.utils.my_modules import init_models
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from supernet.cli.hydra_config import composed
from supernet.data.batches import Batch
from supernet.nn.blocks import net_args
from supernet.nn.extract import extract
from supernet.nn.standalone import timm_model
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch, Op
from supernet.space.net_spec import NetSpec
from supernet.space.presets import ofa_mbv3
from supernet.space.search_space import SearchSpace
from supernet.train.build import build_recipe
from supernet.train.distributed import Ranks
from supernet.train.malloc import keep_freed_memory
from supernet.train.step import Passes, Precision
from supernet.train.strategies import SubnetSampler

KERNELS, EXPANDS, DEPTHS = (3, 5), (3, 4, 6), (2, 3)
SPACE = ofa_mbv3(
    width_mult=0.25, kernel_sizes=KERNELS, expand_ratios=EXPANDS, depths=DEPTHS, resolutions=(32,)
)
OPTIMIZER = {"opt": "muon", "weight_decay": 0.02}
RATE = 20 / 3
"""The recipes' rates are for AdamW; Muon takes 0.02 where that takes 0.003."""
OURS = ("progressive", "sandwich", "random", "compound", "largest_first")


def archs() -> dict[str, Arch]:
    """Return the twelve that are scored: largest, smallest, ten at random."""
    rng = random.Random(123)
    found = {"largest": SPACE.largest(), "smallest": SPACE.smallest()}
    for number in range(1, 11):
        kernels = [rng.choice(KERNELS) for _ in range(15)]
        expands = [rng.choice(EXPANDS) for _ in range(15)]
        depths = [rng.choice(DEPTHS) for _ in range(5)]
        ops = tuple(
            Op(kernels[i], expands[i]) if i % 3 < depths[i // 3] else None for i in range(15)
        )
        found[f"random {number}"] = Arch(ops, 32)
    return found


class Ours:
    """A recipe of `conf/recipe/`, its phases by their share of the work instead of epochs."""

    def __init__(self, recipe: str) -> None:
        keep_freed_memory()
        torch.manual_seed(0)
        config = composed([f"recipe={recipe}", "experiment=accuracy_fashion"])
        self.threads = 1
        self.net = SuperNet(SPACE, 10, 1).to(memory_format=torch.channels_last)
        self.phases, self.strategy = build_recipe(config, SPACE)
        self.optimizer = create_optimizer_v2(self.net, lr=0.1, filter_bias_and_bn=True, **OPTIMIZER)
        self.clip = config["clip_grad"]
        work = [phase.epochs * phase.nets for phase in self.phases]
        self.ends = [sum(work[: i + 1]) / sum(work) for i in range(len(work))]
        self.begun: list[int] = []
        """The step at which each phase began."""

    def step(self, batch: Batch, share: float, step: int, ranks: Ranks) -> None:
        """See `by_the_clock.Arm`."""
        number = next(i for i, end in enumerate(self.ends) if share < end)
        phase = self.phases[number]
        while len(self.begun) <= number:
            self.begun.append(step)
            if phase.sort_channels:
                self.net.sort_channels_()
                self.optimizer.state.clear()
        start = self.ends[number - 1] if number else 0.0
        within = (share - start) / (self.ends[number] - start)
        self.optimizer.zero_grad(set_to_none=True)
        draw = SubnetSampler(phase.sample, 0, step)
        passes = Passes(self.net, Precision(None, torch.device("cpu")))
        for _, _, loss in self.strategy.losses(passes, batch, phase=phase, draw=draw):
            (loss / phase.nets).backward()
        _update(self, RATE * phase.lr_at(within, step - self.begun[number]), ranks)

    def state(self) -> dict[str, Any]:
        """See `by_the_clock.Arm`."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "begun": self.begun,
        }

    def load_state_(self, state: dict[str, Any]) -> None:
        """See `by_the_clock.Arm`."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.begun = list(state["begun"])

    def subnet(self, arch: Arch) -> nn.Module:
        """Return `arch` with its trained weights."""
        return extract(self.net, arch)


class Alone:
    """One network of the space by itself, with the optimizer and schedule of `Ours`."""

    def __init__(self, arch: Arch) -> None:
        keep_freed_memory()
        torch.manual_seed(0)
        config = composed(["recipe=random", "experiment=accuracy_fashion"])
        phase = build_recipe(config, SPACE)[0][0]
        self.threads, self.phase, self.clip = 1, phase, config["clip_grad"]
        args = net_args(NetSpec(space=SPACE, in_chans=1, num_classes=10), arch)
        self.net: nn.Module = timm_model(args).to(memory_format=torch.channels_last)
        self.optimizer = create_optimizer_v2(self.net, lr=0.1, filter_bias_and_bn=True, **OPTIMIZER)

    def step(self, batch: Batch, share: float, step: int, ranks: Ranks) -> None:
        """See `by_the_clock.Arm`."""
        self.optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(self.net(batch.images), batch.labels).backward()
        _update(self, RATE * self.phase.lr_at(share, step), ranks)

    def state(self) -> dict[str, Any]:
        """See `by_the_clock.Arm`."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_(self, state: dict[str, Any]) -> None:
        """See `by_the_clock.Arm`."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def subnet(self, _: Arch) -> nn.Module:
        """Return the net."""
        return self.net


def _update(arm: Any, lr: float, ranks: Ranks) -> None:
    ranks.average_([p.grad for p in arm.net.parameters() if p.grad is not None])
    if arm.clip:
        nn.utils.clip_grad_norm_(arm.net.parameters(), arm.clip)
    for group in arm.optimizer.param_groups:
        group["lr"] = lr
    arm.optimizer.step()


class OnceForAll:
    """Once-for-all's own layers, with its progressive shrinking and its optimizer.

    A quarter of the time on the largest net, then kernels, depths (two subnets a step), widths
    (four), taught by the largest net as it was after its phase; channels sorted before widths.
    """

    ENDS = (0.25, 0.40, 0.65, 1.0)
    RATES = (0.1, 0.05, 0.05, 0.05)
    SUBNETS = (1, 1, 2, 4)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.threads = 2
        self.net = OFAMobileNetV3(
            n_classes=10, width_mult=0.25, ks_list=list(KERNELS),
            expand_ratio_list=list(EXPANDS), depth_list=list(DEPTHS), dropout_rate=0.0,
        )  # fmt: skip
        first = self.net.first_conv.conv
        self.net.first_conv.conv = nn.Conv2d(1, first.out_channels, 3, 2, 1, bias=False)
        init_models(self.net, "he_fout")
        self.teacher: OFAMobileNetV3 | None = None
        self.phase = -1
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Optimizer:
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-5)

    def step(self, batch: Batch, share: float, step: int, ranks: Ranks) -> None:
        """See `by_the_clock.Arm`."""
        phase = next(i for i, end in enumerate(self.ENDS) if share < end)
        if phase != self.phase:
            self._begin(phase)
        start = self.ENDS[phase - 1] if phase else 0.0
        within = (share - start) / (self.ENDS[phase] - start)
        for group in self.optimizer.param_groups:
            group["lr"] = CosineParamScheduler(self.RATES[phase], 0.0)(within)
        self.optimizer.zero_grad(set_to_none=True)
        soft = None
        if self.teacher is not None:
            with torch.no_grad():
                soft = self.teacher(batch.images).softmax(1)
        for place in range(self.SUBNETS[phase]):
            rng = random.Random(f"{step}/{place}")
            self._activate(self._drawn(rng, phase))
            logits = self.net(batch.images)
            target: Tensor = batch.labels if soft is None else soft
            F.cross_entropy(logits, target).backward()
        self.optimizer.step()

    def _begin(self, phase: int) -> None:
        if phase and self.teacher is None:
            self._activate(SPACE.largest())
            self.teacher = copy.deepcopy(self.net).train()
        if phase == 3:
            self.net.re_organize_middle_weights()
        self.phase = phase
        self.optimizer = self._optimizer()

    @staticmethod
    def _drawn(rng: random.Random, phase: int) -> Arch:
        keep: dict[str, Any] = {}
        for name, opens in (("kernel_sizes", 1), ("depths", 2), ("expand_ratios", 3)):
            if phase < opens:
                keep[name] = 1
        return _restricted(keep).sample(rng)

    def _activate(self, arch: Arch) -> None:
        ops = [op or Op(3, 3) for op in arch.ops]
        depths = [sum(op is not None for op in arch.ops[where]) for where in SPACE.stage_slices]
        self.net.set_active_subnet(
            ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops], d=depths
        )

    def state(self) -> dict[str, Any]:
        """See `by_the_clock.Arm`."""
        teacher = None if self.teacher is None else self.teacher.state_dict()
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": teacher,
            "phase": self.phase,
        }

    def load_state_(self, state: dict[str, Any]) -> None:
        """See `by_the_clock.Arm`."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.phase = state["phase"]
        if state["teacher"] is not None:
            self._activate(SPACE.largest())
            self.teacher = copy.deepcopy(self.net).train()
            self.teacher.load_state_dict(state["teacher"])

    def subnet(self, arch: Arch) -> nn.Module:
        """Return `arch` with its trained weights."""
        self._activate(arch)
        found: nn.Module = self.net.get_active_subnet(preserve_weight=True)
        return found


_spaces: dict[str, SearchSpace] = {}


def _restricted(keep: dict[str, Any]) -> SearchSpace:
    name = str(keep)
    if name not in _spaces:
        _spaces[name] = SPACE.restrict(**keep)
    return _spaces[name]
