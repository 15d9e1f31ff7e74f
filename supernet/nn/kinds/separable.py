"""Depthwise-separable blocks: depthwise, then 1x1.

Two kinds stand here because timm has one class for both: `ds`, linear at its end and residual where
shapes allow it, and `dsa`, the block of MobileNetV1 (1704.04861), with an activation at its end and
never residual.
"""

from __future__ import annotations

from timm.models._efficientnet_blocks import DepthwiseSeparableConv

from supernet.nn.kinds.conv import SE, Conv, ConvKind, Depthwise

_STEPS = (Depthwise("conv_dw", "bn1"), SE(), Conv("conv_pw", "bn2"))

DS, DSA = (
    ConvKind(
        name=name,
        block=DepthwiseSeparableConv,
        steps=_STEPS,
        settings={"has_pw_act": ends_active},
        residual=not ends_active,
    )
    for name, ends_active in (("ds", False), ("dsa", True))
)
