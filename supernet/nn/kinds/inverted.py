"""The inverted residual of MobileNetV2 (1801.04381): expand, depthwise, project."""

from __future__ import annotations

from timm.models._efficientnet_blocks import InvertedResidual

from supernet.nn.kinds.conv import SE, Conv, ConvKind, Depthwise

IR = ConvKind(
    name="ir",
    block=InvertedResidual,
    steps=(
        Conv("conv_pw", "bn1"),
        Depthwise("conv_dw", "bn2"),
        SE(),
        Conv("conv_pwl", "bn3"),
    ),
)
