"""Named families of spaces whose widths are computed: functions that return a `SearchSpace`.

Spaces whose widths are plain numbers are YAML files under `conf/space/`.
"""

from __future__ import annotations

from collections.abc import Callable

from supernet.nn.from_timm import from_timm
from supernet.space.presets import ofa_mbv3, ofa_proxyless
from supernet.space.search_space import SearchSpace

PRESETS: dict[str, Callable[..., SearchSpace]] = {
    "ofa_mbv3": ofa_mbv3,
    "ofa_proxyless": ofa_proxyless,
    "from_timm": from_timm,
}
