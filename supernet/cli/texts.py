"""Take texts of the command line as they were typed.

Hydra's grammar reads `name=2024_10_07` as a number and `name=[x]` as a list, and refuses `~`, `#`
and letters beyond ASCII. It has no say in settings that are texts, unless they are quoted, swept
over or refer to another setting.
"""

from __future__ import annotations

import re
from types import NoneType
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    IntervalSweep,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import HydraException

TEXTS = frozenset([
    "name", "device", "evaluate", "data.name", "gates.estimator", "gates.loss", "net.kind",
    "net.name", "net.dir", "optimizer.opt", "recipe.strategy.divergence", "space.preset",
    "space.model", "space.family", "space.act", "space.first.act", "space.padding",
    "space.variant", "teacher.model",
    "teacher.weights",
])  # fmt: skip
"""Settings that are texts, `null` included."""
TEXTS_OR_NULL = frozenset([
    "amp", "init_from", "resume", "data.root", "data.balance", "data.augment.randaugment",
    "net.init", "net.weights",
])  # fmt: skip
UNREADABLE = (HydraException, ValueError, RecursionError)  # such as a number of 5,000 digits
_WORD = re.compile(r"(\+{0,2}([\w.]+)=)(.*)", re.DOTALL)
_READ_AS_TEXT = (str, QuotedString, Glob, IntervalSweep, RangeSweep)


def as_typed(word: str, *, sweep: bool = False) -> str:
    """Return an override that gives a text setting the text typed; any other override as it is.

    Args:
        word: such as `name=2024_10_07`.
        sweep: whether commas separate the values of a sweep.
    """
    parts = _WORD.fullmatch(word)
    if parts is None or parts[2] not in TEXTS | TEXTS_OR_NULL:
        return word
    start, text = parts[1], parts[3].strip()
    kinds = (*_READ_AS_TEXT, *[NoneType] * (parts[2] in TEXTS_OR_NULL))
    try:
        value: Any = OverridesParser.create().parse_override(word).value()
    except UNREADABLE:
        return start + ",".join(map(_quoted, text.split(",") if sweep else [text]))
    if not isinstance(value, ChoiceSweep):
        return word if isinstance(value, kinds) else start + _quoted(text)
    frame = re.fullmatch(r"(choice\(|)(.*?)(\)|)", text, re.DOTALL)
    pieces = frame[2].split(",") if frame else []
    if frame is None or len(pieces) != len(value.list):  # commas inside of quotes
        return word
    values = [
        piece if isinstance(one, kinds) else _quoted(piece.strip())
        for piece, one in zip(pieces, value.list, strict=True)
    ]
    return start + frame[1] + ",".join(values) + frame[3]


def as_shown(word: str) -> str:
    """Return an override without the quotes of `as_typed`, where it reads the same without them."""
    parts = _WORD.fullmatch(word)
    if parts is None or parts[2] not in TEXTS | TEXTS_OR_NULL:
        return word
    try:
        plain = f"{parts[1]}{OverridesParser.create().parse_override(word).value()}"
    except UNREADABLE:
        return word
    return plain if as_typed(plain, sweep=True) == word else word


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
