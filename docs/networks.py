"""Write docs/networks.md, timm's mobile networks as spaces: `python docs/networks.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm

from supernet.errors import SpaceError
from supernet.nn.families import FAMILIES
from supernet.nn.from_timm import from_timm

PAGE = Path(__file__).resolve().parent / "networks.md"
MODULES = tuple(dict.fromkeys(module for each in FAMILIES.values() for module in each.modules))


OTHERS = """\
Kind `uir` has no layer scale: of these networks only the hybrid ones of MobileNetV4 use it, which
are refused for their attention.

## What other modules of timm would take

- **RepViT** (`repvit`). Its token mixer sums a depthwise convolution, a scaling of each channel and
  the input. Fused, a block is a depthwise convolution with a bias, squeeze-and-excite and two 1x1
  convolutions, the input skipping the last two only. A kind is a chain of convolutions, each with
  its BN, and its skip goes around all of them: this asks for a skip around a part of the steps, for
  convolutions with a bias in place of BN, and, since nothing would normalise in training, for a
  depthwise step that is trained as the sum of three and fused when a subnet is extracted. Further
  a stem of two convolutions, blocks of their own between stages, GELU in the writers of ONNX, ncnn
  and LiteRT files, and a head that normalises what is pooled.
- **GhostNet** (`ghostnet`). Hidden channels are those of a 1x1 convolution next to those that a
  depthwise convolution makes of them: the steps of a kind would have to branch and to join again,
  and sorting, cropping and mixing would have to move the two halves together. Where shapes differ,
  the skip is a depthwise and a 1x1 convolution, which a space has nowhere.
"""


def main() -> None:
    """Try every network and write the page."""
    PAGE.write_text(page({name: refusal(name) for name in names()}), encoding="utf-8")


def names() -> list[str]:
    """Return the names in timm's modules of mobile networks."""
    return sorted({name for module in MODULES for name in timm.list_models(module=module)})


def refusal(name: str) -> str | None:
    """Return why a network is refused; None if it is a space."""
    try:
        from_timm(model=name)
    except SpaceError as error:
        return str(error).removeprefix(f"{name} cannot be made elastic: ")
    return None


def page(tried: Mapping[str, str | None]) -> str:
    """Return the page for names and why they are refused."""
    taken = [name for name, reason in tried.items() if reason is None]
    refused = {name: reason for name, reason in tried.items() if reason is not None}
    lines = [
        "<!-- made by `python docs/networks.py` -->",
        "# timm's mobile networks as spaces",
        "",
        f"`space=from_timm space.model=NAME` takes {len(taken)} of the {len(tried)} networks in "
        f"timm's modules {', '.join(MODULES)} (timm {timm.__version__}). The largest subnet is the "
        "network itself.",
        "",
        "## Taken",
        "",
        *(f"- `{name}`" for name in taken),
        "",
        "## Refused",
        "",
        "| network | part that no space has |",
        "|---|---|",
        *(f"| `{name}` | {reason} |" for name, reason in refused.items()),
        "",
        OTHERS,
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
