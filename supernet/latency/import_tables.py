"""Latency tables of once-for-all and ProxylessNAS, as their authors published them.

A file (YAML or JSON) maps the description of a layer, such as
`expanded_conv-input:14x14x96-output:7x7x192-expand:576-kernel:5-stride:2-idskip:0-se:1-hs:1`, to
`count`, `mean` and `std` or `var` in milliseconds, measured for nets of one input size. `expand`
is the hidden width in once-for-all's files and the ratio in those of ProxylessNAS. Once-for-all's
(1908.09791) are of MobileNetV3, where pooling (`AvgPool2D`) is timed apart from the hidden layer
(`Conv_2`); ProxylessNAS's (1812.00332) of MobileNetV2-like nets, where `Logits` pools as well.

Every entry is one of a file, none is made up: the median is their mean, the interval its 95 % one.
Not here: the project's own format.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from supernet.errors import TableError, shown
from supernet.io.read import is_line, read_json, read_yaml
from supernet.io.validate import number
from supernet.io.version import tool_version
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.latency.timing import TOLERANCE
from supernet.space.arch import Op
from supernet.space.layers import LayerKey

SUFFIXES = (".yaml", ".yml", ".json")

_LAYER = re.compile(
    r"(?P<name>\w+)-input:(?P<in>N(?:xN){2})-output:(?P<out>N(?:xN){0,2})"
    r"(?P<rest>(?:-[a-z]+:\d{1,6})*)".replace("N", r"[1-9]\d{0,5}"),
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class Format:
    """What the descriptions in a project's files mean.

    Args:
        family: of the nets.
        act: activation of stem and last layers; and of blocks, where `fields` has no `hs`.
        layers: their name of each layer, and the kind that it is here.
        fields: what is said of an `expanded_conv` besides its shapes.
        ratio: whether `expand` is the ratio, not the hidden width.
    """

    family: str
    act: str
    layers: dict[str, str]
    fields: tuple[str, ...]
    ratio: bool


FORMATS = {
    "ofa": Format(
        family="mobilenetv3",
        act="hard_swish",
        layers={"Conv": "stem", "expanded_conv": "ir", "Conv_1": "final", "AvgPool2D": "pool",
                "Conv_2": "head", "Logits": "classifier"},
        fields=("expand", "kernel", "stride", "idskip", "se", "hs"),
        ratio=False,
    ),
    "proxylessnas": Format(
        family="efficientnet",
        act="relu6",
        layers={"Conv": "stem", "expanded_conv": "ir", "Conv_1": "final",
                "Logits": "classifier"},
        fields=("expand", "kernel", "stride", "idskip"),
        ratio=True,
    ),
}  # fmt: skip


def read_tables(path: Path, form: str, device: Device) -> LatencyTable:
    """Read a table of the authors, or a folder of them, one a resolution.

    Args:
        path: a file, or a folder whose YAML and JSON files are all read.
        form: a name of `FORMATS`.
        device: what they were measured on; the files do not say.

    Raises:
        TableError: naming the file, the layer in it and what is wrong there.
    """
    if form not in FORMATS:
        raise TableError(f"format is {form!r}; allowed: {', '.join(FORMATS)}")
    files = [path]
    if path.is_dir():
        shown = (file for file in path.iterdir() if not file.name.startswith("."))
        files = sorted(file for file in shown if file.suffix in SUFFIXES)
        if not files:
            raise TableError(f"{path}: no file that ends in {', '.join(SUFFIXES)}")
    entries: dict[LayerKey, Entry] = {}
    for file in files:
        data = (read_json if file.suffix == ".json" else read_yaml)(file, error=TableError)
        try:
            found = _entries(data, FORMATS[form])
        except TableError as error:
            raise TableError(f"{file}: {error}") from error
        twice = sorted(set(found) & set(entries))
        if twice:
            raise TableError(
                f"{file}: a second table for {twice[0].resolution} px; it has {twice[0]}"
            )
        entries |= found
    return LatencyTable(
        device=device,
        entries=entries,
        reference_ms=0.0,
        load_average=0.0,
        created=date.today().isoformat(),
        tool_version=tool_version(),
        source=f"{form}: {', '.join(map(_printable, files))}",
    )


def _printable(file: Path) -> str:
    return "".join(letter if is_line(letter) else "?" for letter in file.name)


def _entries(data: Any, form: Format) -> dict[LayerKey, Entry]:
    if not isinstance(data, dict) or not data:
        raise TableError("not a table of the authors: expected layers and their timings")
    timed = {}
    for name, timing in data.items():
        key = _key(str(name), form)
        if key in timed:
            raise TableError(f"{name}: a second timing of {key}")
        timed[key] = _entry(timing, str(name))
    sizes = sorted({key.in_size for key in timed if key.kind == "stem"})
    if len(sizes) != 1:
        raise TableError(
            f"has layers named Conv for {sizes or 'no'} px; expected one input size in a file"
        )
    return {key.at(sizes[0]): entry for key, entry in timed.items()}


def _key(name: str, form: Format) -> LayerKey:
    """Return the layer that `name` describes; what else it says must be so of that layer."""
    match = _LAYER.fullmatch(name)
    if match is None or match["name"] not in form.layers:
        raise TableError(
            f"{shown(name)}: not a layer of these tables; they are {', '.join(form.layers)}, each "
            "with -input:HxWxC-output:HxWxC"
        )
    kind = form.layers[match["name"]]
    height, width, channels = map(int, match["in"].split("x"))
    *sizes, out_channels = map(int, match["out"].split("x"))
    fields = _fields(name, match["rest"], form.fields if kind == "ir" else ())
    shapes: dict[str, Any] = {
        "family": form.family,
        "in_channels": channels,
        "out_channels": out_channels,
    }
    stride = 1
    if kind == "ir":
        stride = fields["stride"]
        key = _block(shapes, height, fields, form)
        residual = stride == 1 and channels == out_channels
        if bool(fields["idskip"]) != residual:
            raise TableError(f"{name}: idskip is {fields['idskip']}; here a block has a residual "
                             "where it keeps size and channels, and only there")  # fmt: skip
    elif kind == "stem":
        stride = 2
        shapes |= {"op": Op(kernel_size=3), "stride": 2, "act": form.act}
        key = LayerKey(kind=kind, in_size=height, **shapes)
    elif kind in ("pool", "classifier"):
        key = LayerKey(kind=kind, in_size=height, **shapes)
    else:
        key = LayerKey(kind=kind, in_size=height, act=form.act, **shapes)
    want = {"pool": [1, 1], "classifier": []}.get(kind, [-(-height // stride)] * 2)
    if height != width or sizes != want:
        raise TableError(
            f"{name}: expected a square input and an output of {'x'.join(map(str, want)) or '1x1'}"
        )
    return key


def _fields(name: str, rest: str, expected: tuple[str, ...]) -> dict[str, int]:
    pairs = [part.split(":") for part in rest.split("-") if part]
    said = dict(pairs)
    if set(said) != set(expected) or len(said) < len(pairs):
        raise TableError(
            f"{shown(name)}: says {', '.join(said) or 'nothing'} of the layer; expected "
            f"{', '.join(expected) or 'nothing'}"
        )
    found = {field: int(value) for field, value in said.items()}
    zero = [field for field in ("expand", "kernel", "stride") if found.get(field) == 0]
    if zero:
        raise TableError(f"{name}: {zero[0]} is 0; 1 is the least")
    return found


def _block(shapes: dict[str, Any], size: int, fields: dict[str, int], form: Format) -> LayerKey:
    """A block that does not widen is the depthwise-separable one."""
    expand = float(fields["expand"]) if form.ratio else fields["expand"] / shapes["in_channels"]
    act = ("hard_swish" if fields["hs"] else "relu") if "hs" in fields else form.act
    return LayerKey(
        kind="ds" if expand == 1 else "ir",
        in_size=size,
        op=Op(kernel_size=fields["kernel"], expand_ratio=expand),
        stride=fields["stride"],
        se=bool(fields.get("se", 0)),
        act=act,
        **shapes,
    )


def _entry(timing: Any, name: str) -> Entry:
    spread = [word for word in ("std", "var") if isinstance(timing, dict) and word in timing]
    if not isinstance(timing, dict) or len(spread) != 1 or not {"count", "mean"} <= set(timing):
        raise TableError(f"{name}: expected count, mean, and std or var")
    count = int(number(timing, "count", name, above=True, whole=True))
    mean = number(timing, "mean", name, above=True)
    deviation = number(timing, spread[0], name)
    deviation = math.sqrt(deviation) if spread[0] == "var" else deviation
    half = 1.96 * deviation / math.sqrt(count)
    if half >= mean:
        raise TableError(f"{name}: mean {mean} is not told from 0 by {count} runs with {spread[0]} "
                         f"{timing[spread[0]]}")  # fmt: skip
    return Entry(
        median_ms=mean,
        low_ms=mean - half,
        high_ms=mean + half,
        visits=count,
        converged=half <= TOLERANCE * mean,
    )
