"""The edge residual of EfficientNet-EdgeTPU: one full convolution expands, 1x1 projects.

EfficientNetV2 (2104.00298) calls it Fused-MBConv, MobileNetV4 (2404.10518) fused IB.
"""

from __future__ import annotations

from timm.models._efficientnet_blocks import EdgeResidual

from supernet.nn.kinds.conv import SE, Conv, ConvKind

ER = ConvKind(
    name="er",
    block=EdgeResidual,
    steps=(
        Conv("conv_exp", "bn1", kernel="kernel_size"),
        SE(),
        Conv("conv_pwl", "bn2"),
    ),
)
