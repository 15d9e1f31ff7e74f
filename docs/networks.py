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
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
