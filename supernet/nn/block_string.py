"""timm's block strings, such as `ir_r1_k5_s1_e3_c40_se0.25_nre`.

The one place that knows their grammar: a kind of block, then options of a letter and a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

LETTERS = {
    "start_kernel_size": "a",
    "kernel_size": "k",
    "end_kernel_size": "p",
    "stride": "s",
    "expand_ratio": "e",
    "width": "c",
    "se_ratio": "se",
    "act": "n",
}
"""timm's letter of each option, in the order in which they are written."""
RESIDUALS = ("skip", "noskip")
"""Words of their own: the option `residual`."""
_NAMES = {letter: name for name, letter in LETTERS.items()}
_ACTS = {"relu": "re", "relu6": "r6", "hard_swish": "hs", "swish": "sw"}
_LONG = {short: act for act, short in _ACTS.items()}
_VALUES = {
    "s": r"[12]",
    "e": r"\d{1,3}(\.\d{1,9})?",
    "c": r"\d{1,6}",
    "se": r"0?\.\d{1,6}",
    "n": "|".join(_ACTS.values()),
}
_KIND, _OPTION = re.compile(r"[a-z]{2,8}", re.ASCII), re.compile(r"(se|[akpsecn])(.+)")


@dataclass(frozen=True, kw_only=True)
class BlockString:
    """One block of a timm network: its kind, and its options by name (`LETTERS`, `residual`)."""

    kind: str
    options: Mapping[str, float | str]

    @classmethod
    def parse(cls, text: str) -> BlockString:
        """Read a block string.

        Raises:
            ValueError: if it is none, repeats its block, or has an option beyond `LETTERS`.
        """
        kind, *words = text.split("_")
        options: dict[str, float | str] = {}
        for word in words[1:]:
            if word in RESIDUALS:
                options["residual"] = word
                continue
            match = _OPTION.fullmatch(word)
            if match is None or not _fits(*match.groups()):
                raise ValueError(f"{word} is no option of a block string")
            letter, value = match.groups()
            options[_NAMES[letter]] = _LONG[value] if letter == "n" else _number(value)
        if words[:1] != ["r1"] or not _KIND.fullmatch(kind):
            raise ValueError("a block string begins with a kind and r1")
        return cls(kind=kind, options=options)

    def with_(self, **options: float | str) -> BlockString:
        """Return it with other values of some options."""
        return BlockString(kind=self.kind, options={**self.options, **options})

    def __str__(self) -> str:
        """Return the string as timm reads it."""
        words = [f"{self.kind}_r1"]
        for name, letter in LETTERS.items():
            if name in self.options:
                value = self.options[name]
                words.append(f"{letter}{_ACTS[str(value)] if name == 'act' else f'{value:g}'}")
        if "residual" in self.options:
            words.append(str(self.options["residual"]))
        return "_".join(words)


def _fits(letter: str, value: str) -> bool:
    return re.fullmatch(_VALUES.get(letter, r"\d{1,3}"), value, re.ASCII) is not None


def _number(value: str) -> float:
    return float(value) if "." in value else int(value)
