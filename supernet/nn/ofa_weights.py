"""Supernets and networks of once-for-all, as its authors published them.

A checkpoint (`ofa_mbv3_d234_e346_k357_w1.0` and the like) becomes a `SuperNet` with the same
outputs: BN and kernel matrices included, names of older and of newer releases. What the file cannot
say, which narrower expand ratios and depths it was trained for, is given. A `net.config` becomes an
`Arch`. Files are read without running any code in them.

Source: once-for-all (1908.09791), `ofa` 0.1.0. Not here: its latency tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from supernet.errors import CheckpointError, SpaceError
from supernet.io.read import read_json
from supernet.io.tensors import read_state, tensors_of
from supernet.nn.description import FAULTS
from supernet.nn.kinds import KINDS
from supernet.nn.kinds.conv import SE, ConvKind
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_weights import kind_of
from supernet.space.arch import Arch, Op
from supernet.space.presets import ofa_mbv3, ofa_proxyless
from supernet.space.search_space import SearchSpace

MAX_ARCH = 10_000_000
WIDTHS = tuple(round(0.05 * n, 2) for n in range(1, 61))
SHOWN = 6
_ENDS = ("first_conv.conv.weight", "feature_mix_layer.conv.weight", "classifier.linear.weight")
_TWICE = re.compile(r"\.(conv|bn|linear)\.\1\.")  # newer releases wrap each layer once more


def _names(theirs: str, ours: str, kind: ConvKind) -> Iterator[tuple[str, str]]:
    """Yield how tensors of a block of theirs are called in one of ours, as patterns.

    Their block has at most an expansion, a depthwise convolution with SE, and a projection.
    """
    steps = [step for step in kind.steps if not isinstance(step, SE)]
    parts = ("inverted_bottleneck", "depth_conv", "point_linear")[-len(steps) :]
    for name, step in zip(parts, steps, strict=True):
        yield rf"{theirs}\.{name}\.conv(?=\.weight)", f"{ours}.{step.path}"
        yield rf"{theirs}\.{name}\.bn", f"{ours}.{step.norm}"
    for se in (step for step in kind.steps if isinstance(step, SE)):
        yield rf"{theirs}\.depth_conv\.se\.fc\.", f"{ours}.{se.path}.conv_"


_NAMES = (
    (r"^first_conv\.conv", "stem.conv_stem"),
    (r"^first_conv\.bn", "stem.bn_stem"),
    *_names(r"^blocks\.0\.conv", "stem.first", KINDS["ds"]),
    (r"conv\.depth_conv\.conv\.\dto(\d)_matrix", r"transforms.\1"),
    *_names("conv", "timm", KINDS["ir"]),
    (r"^final_expand_layer\.conv", "tail.final.conv"),
    (r"^final_expand_layer\.bn", "tail.final.bn1"),
    (r"^classifier\.linear", "tail.classifier"),
)
_LAST = {
    "ofa_mbv3": ((r"^feature_mix_layer\.conv", "tail.conv_head"),),
    "ofa_proxyless": (
        (r"^feature_mix_layer\.conv", "tail.final"),
        (r"^feature_mix_layer\.bn", "tail.bn_final"),
    ),
}
_PRESETS = {"ofa_mbv3": ofa_mbv3, "ofa_proxyless": ofa_proxyless}


def read_supernet(
    file: Path, *, expand_ratios: Sequence[float] = (3, 4, 6), depths: Sequence[int] = (2, 3, 4)
) -> SuperNet:
    """Read a published checkpoint.

    Args:
        file: of tensors, bare or kept as training scripts do.
        expand_ratios: that it was trained for.
        depths: of a stage, that it was trained for.

    Raises:
        CheckpointError: if it is none of once-for-all's, or its tensors do not fit those choices;
            it lists them.
    """
    state = {_plain(name): tensor for name, tensor in read_state(file).items()}
    state, _ = tensors_of(_ENDS, state, str(file))
    if any(re.search(r"\binput_stem\.", name) for name in state):
        raise CheckpointError(
            f"{file}: a ResNet of once-for-all, whose bottleneck blocks are no kind of block here; "
            f"its {' and '.join(_PRESETS)} are read"
        )
    if not any(name in state for name in _ENDS):
        raise CheckpointError(
            f"{file}: not of once-for-all, it is {kind_of(state)}; weights of a mobile network of "
            "timm start a training: net.init=FILE"
        )
    try:
        return net_of(state, expand_ratios=expand_ratios, depths=depths)
    except FAULTS as error:
        raise CheckpointError(f"{file}: {' '.join(str(error).split())[:600]}") from error


def net_of(
    state: Mapping[str, Tensor], *, expand_ratios: Sequence[float], depths: Sequence[int]
) -> SuperNet:
    """Return the supernet with the weights of theirs; see `read_supernet`."""
    theirs = {_plain(name): tensor for name, tensor in state.items()}
    preset, ours = renamed(state)
    space = _space(theirs, preset, expand_ratios, depths)
    logits = theirs["classifier.linear.weight"].shape[0]
    net = SuperNet(space, logits, theirs["first_conv.conv.weight"].shape[1])
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    faults = [f"lacks {name}" for name in wanted if name not in ours]
    faults += [f"has {name}, which is not part of it" for name in ours if name not in wanted]
    faults += [
        f"{name} is {tuple(ours[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if name in ours and ours[name].shape != shape
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise CheckpointError(
            f"does not fit {preset} with expand ratios {tuple(expand_ratios)} and depths "
            f"{tuple(depths)}: {'; '.join(faults[:SHOWN])}{more}"
        )
    net.load_state_dict(ours)
    return net.eval()


def renamed(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the preset of the space, and their tensors under the names of `SuperNet`."""
    theirs = {_plain(name): tensor for name, tensor in state.items()}
    preset = "ofa_proxyless" if "feature_mix_layer.bn.weight" in theirs else "ofa_mbv3"
    return preset, {_our_name(name, preset): tensor for name, tensor in theirs.items()}


def _plain(name: str) -> str:
    """Return a name as the oldest releases spell it, with the shorter word for the block."""
    return _TWICE.sub(r".\1.", name.replace(".mobile_inverted_conv.", ".conv."))


def _our_name(theirs: str, preset: str) -> str:
    ours = theirs
    for pattern, name in (*_NAMES, *_LAST[preset]):
        ours = re.sub(pattern, name, ours)
    block = re.match(r"blocks\.(\d+)\.(.*)", ours)  # theirs count the fixed block as well
    return f"blocks.{int(block[1]) - 1}.{block[2]}" if block else ours


def _space(
    theirs: Mapping[str, Tensor], preset: str, expand_ratios: Sequence[float],
    depths: Sequence[int],
) -> SearchSpace:  # fmt: skip
    """Return the space whose widths and kernels the tensors have."""
    try:
        stem = theirs["first_conv.conv.weight"].shape[0]
        last = theirs["feature_mix_layer.conv.weight"].shape[0]
        count = 1 + max(int(m[1]) for n in theirs if (m := re.match(r"blocks\.(\d+)\.", n)))
        outs = [theirs[f"blocks.{n}.conv.point_linear.conv.weight"].shape[0] for n in range(count)]
        kernels = {theirs["blocks.1.conv.depth_conv.conv.weight"].shape[-1]}
        kernels |= {int(m[1]) for n in theirs if (m := re.search(r"\dto(\d)_matrix", n))}
        _ = theirs["classifier.linear.weight"].shape
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"no supernet of once-for-all: it lacks {error}") from error
    for width in WIDTHS:
        space = _PRESETS[preset](
            width_mult=width, kernel_sizes=sorted(kernels), expand_ratios=tuple(expand_ratios),
            depths=tuple(depths),
        )  # fmt: skip
        assert space.first is not None
        ends = [stage.width for stage in space.stages]
        mine = (space.stem_width, space.head_width or space.final_width)
        if mine == (stem, last) and outs[0] == space.first.width and set(outs[1:]) == set(ends):
            return space
    raise CheckpointError(
        f"no width of {preset} has {stem} channels in the stem, {sorted(set(outs))} in the blocks "
        f"and {last} in the last layer"
    )


def read_arch(file: Path, space: SearchSpace, resolution: int) -> Arch:
    """Read a published `net.config` as an architecture of `space`; a stage starts at a wider block.

    Raises:
        SpaceError: if it is no such file, or the net is not one of the space.
    """
    content = read_json(file, most=MAX_ARCH, error=SpaceError)
    try:
        names = ("mobile_inverted_conv", "conv")  # of older and newer releases
        blocks = [block[names["conv" in block]] for block in content["blocks"][1:]]
        rows = [
            (int(b["out_channels"]), Op(int(b["kernel_size"]), float(b["expand_ratio"])))
            for b in blocks
        ]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SpaceError(f"{file}: not a net.config of once-for-all ({error!r})") from error
    ops: list[Op | None] = []
    for stage, where in zip(space.stages, space.stage_slices, strict=True):
        mine: list[Op | None] = []
        while rows and rows[0][0] == stage.width and len(mine) < where.stop - where.start:
            mine.append(rows.pop(0)[1])
        ops += mine + [None] * (where.stop - where.start - len(mine))
    arch = Arch(tuple(ops), resolution)
    if rows:
        raise SpaceError(f"{file}: {len(rows)} of its blocks, from {rows[0]} on, are in no stage")
    try:
        space.check(arch)
    except SpaceError as error:
        raise SpaceError(f"{file}: {error}") from error
    return arch
