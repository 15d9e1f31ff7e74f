"""A plain convolution, BN and activation, residual only where it says so."""

from __future__ import annotations

from timm.models._efficientnet_blocks import ConvBnAct

from supernet.nn.kinds.conv import Conv, ConvKind

CN = ConvKind(
    name="cn",
    block=ConvBnAct,
    steps=(Conv("conv", "bn1", kernel="kernel_size"),),
    residual=False,
)
