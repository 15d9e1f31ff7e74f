"""Write what a user may paste into a shell: commands and Hydra overrides, quoted."""

from __future__ import annotations

import re
import shlex

_READ_OTHERWISE = re.compile(r"""[,'"\\(){}$]|^\s|\s$|^$|^null$""", re.IGNORECASE)
"""Text that Hydra does not take as it stands: sweeps, functions, quotes, references."""


def command(*words: object) -> str:
    """Return a command that a shell splits into these words."""
    return shlex.join(map(str, words))


def override(name: str, value: object) -> str:
    """Return the Hydra override that sets a text, such as `resume=runs/mine`, as a shell's word."""
    text = str(value)
    if _READ_OTHERWISE.search(text):
        doubled = re.sub(r"\\+(?='|$)", lambda found: 2 * found[0], text)
        text = "'" + doubled.replace("'", r"\'") + "'"
    return shlex.quote(f"{name}={text}")
