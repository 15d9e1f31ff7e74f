"""Named families of spaces whose widths are computed: functions that return a `SearchSpace`.

Spaces whose widths are plain numbers are YAML files under `conf/space/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import make_divisible

from supernet.errors import SpaceError, shown
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Block, FixedBlock, Stage


def ofa_mbv3(
    *,
    width_mult: float = 1.0,
    kernel_sizes: Sequence[int] = (3, 5, 7),
    expand_ratios: Sequence[float] = (3, 4, 6),
    depths: Sequence[int] = (2, 3, 4),
    resolutions: Sequence[int] = (128, 144, 160, 176, 192, 208, 224),
) -> SearchSpace:
    """Return once-for-all's MobileNetV3 space (1908.09791, section 4 and its released code).

    Five stages behind a fixed depthwise-separable block; SE and activation by stage.
    """

    def width(base: int) -> int:
        return int(make_divisible(base * width_mult, 8))

    rows = (
        (24, 2, False, "relu"),
        (40, 2, True, "relu"),
        (80, 2, False, "hard_swish"),
        (112, 1, True, "hard_swish"),
        (160, 2, True, "hard_swish"),
    )
    return SearchSpace(
        family="mobilenetv3",
        stem_width=width(16),
        first=FixedBlock(width=width(16), act="relu"),
        stages=tuple(
            Stage(width=width(base), stride=stride, depths=tuple(depths), se=se, act=act)
            for base, stride, se, act in rows
        ),
        final_width=width(960),
        head_width=width(1280),
        kernel_sizes=tuple(kernel_sizes),
        expand_ratios=tuple(expand_ratios),
        resolutions=tuple(resolutions),
    )


def ofa_proxyless(
    *,
    width_mult: float = 1.3,
    kernel_sizes: Sequence[int] = (3, 5, 7),
    expand_ratios: Sequence[float] = (3, 4, 6),
    depths: Sequence[int] = (2, 3, 4),
    resolutions: Sequence[int] = (128, 144, 160, 176, 192, 208, 224),
) -> SearchSpace:
    """Return once-for-all's MobileNetV2-like space, that of ProxylessNAS (1812.00332).

    ReLU6, no SE, BN's epsilon 1e-3; a sixth stage of one block ends the searchable part. The
    last layer keeps 1280 channels at widths up to 1.
    """

    def width(base: int) -> int:
        return int(make_divisible(base * width_mult, 8))

    rows = ((24, 2), (40, 2), (80, 2), (96, 1), (192, 2), (320, 1))
    return SearchSpace(
        family="efficientnet",
        stem_width=width(32),
        first=FixedBlock(width=width(16), act="relu6"),
        stages=tuple(
            Stage(
                width=width(base),
                stride=stride,
                depths=tuple(depths) if base < 320 else (1,),
                act="relu6",
            )
            for base, stride in rows
        ),
        final_width=width(1280) if width_mult > 1 else 1280,
        head_width=None,
        kernel_sizes=tuple(kernel_sizes),
        expand_ratios=tuple(expand_ratios),
        resolutions=tuple(resolutions),
        act="relu6",
        bn_eps=1e-3,
    )


def mobilenetv4(
    *,
    variant: str = "small",
    width_mult: float = 1.0,
    start_kernel_sizes: Sequence[int] = (0, 3, 5),
    kernel_sizes: Sequence[int] = (0, 3, 5),
    expand_ratios: Sequence[float] = (2, 3, 4, 6),
    min_depth: int = 2,
    resolutions: Sequence[int] = (128, 160, 192, 224),
) -> SearchSpace:
    """Return a space of universal inverted bottlenecks around MobileNetV4-Conv (2404.10518).

    Widths and greatest depths are those of the published net, which is in the space at a width
    multiplier of 1. Stages before the bottlenecks are fixed.

    Args:
        variant: `small` or `medium`.
        width_mult: of all widths but the last two.
        start_kernel_sizes: of the depthwise convolution before the expansion; 0 leaves it out.
        kernel_sizes: the same after the expansion.
        expand_ratios: of the bottlenecks.
        min_depth: least blocks of a stage of bottlenecks.
        resolutions: input sizes, in pixels.
    """
    if variant not in _MOBILENETV4:
        allowed = ", ".join(_MOBILENETV4)
        raise SpaceError(f"variant is {shown(variant)}; allowed: {allowed}")

    def width(base: int) -> int:
        return int(make_divisible(base * width_mult, 8))

    kernels = tuple(sorted(set(kernel_sizes) - {0})) or (3,)
    starts, rows = _MOBILENETV4[variant]
    choices = {
        "start_kernel_size": tuple(start_kernel_sizes),
        "kernel_size": tuple(kernel_sizes),
        "expand_ratio": tuple(expand_ratios),
    }
    fixed = tuple(
        Stage(
            width=width(blocks[-1][1]),
            stride=2,
            depths=(len(blocks),),
            kind=kind,
            each=tuple(
                Block(
                    width=width(base),
                    choices={"kernel_size": (kernel,), "expand_ratio": (expand,)},
                )
                for kernel, base, expand in blocks
            ),
        )
        for kind, blocks in starts
    )
    searched = tuple(
        Stage(
            width=width(base),
            stride=2,
            depths=tuple(range(min(min_depth, depth), depth + 1)),
            kind="uir",
            choices=choices,
        )
        for base, depth in rows
    )
    return SearchSpace(
        family="mobilenetv4",
        stem_width=width(32),
        first=None,
        stages=(*fixed, *searched),
        final_width=960,
        head_width=1280,
        kernel_sizes=kernels,
        expand_ratios=tuple(expand_ratios),
        resolutions=tuple(resolutions),
        act="relu",
    )


_MOBILENETV4: dict[str, tuple[Any, Any]] = {
    "small": (
        [("cn", [(3, 32, 1), (1, 32, 1)]), ("cn", [(3, 96, 1), (1, 64, 1)])],
        [(96, 6), (128, 6)],
    ),
    "medium": ([("er", [(3, 48, 4)])], [(80, 2), (160, 8), (256, 11)]),
}
"""Fixed stages of kernel, width and expand ratio; width and depth of those searched."""
