"""The universal inverted bottleneck of MobileNetV4 (2404.10518), four known blocks in one.

A depthwise convolution may stand before the expansion and another one after it; kernel size 0
leaves it out. With the second alone it is an inverted residual, with the first alone ConvNeXt's
block, with both ExtraDW, with none a feed-forward block. The later one strides.
"""

from __future__ import annotations

from timm.models._efficientnet_blocks import UniversalInvertedResidual

from supernet.nn.kinds.conv import SE, Conv, ConvKind, Depthwise

UIR = ConvKind(
    name="uir",
    block=UniversalInvertedResidual,
    steps=(
        Depthwise("dw_start.conv", "dw_start.bn", kernel="start_kernel_size", optional=True),
        Conv("pw_exp.conv", "pw_exp.bn"),
        Depthwise("dw_mid.conv", "dw_mid.bn", optional=True),
        SE(),
        Conv("pw_proj.conv", "pw_proj.bn"),
    ),
    choices=("start_kernel_size", "kernel_size", "expand_ratio"),
)
