"""Named families of spaces whose widths are computed: functions that return a `SearchSpace`.

Spaces whose widths are plain numbers are YAML files under `conf/space/`.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import make_divisible

from supernet.space.search_space import FixedBlock, SearchSpace, Stage


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
