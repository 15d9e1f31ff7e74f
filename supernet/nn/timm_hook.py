"""Subnet folders in timm's registry as soon as timm is there, without importing it now.

`import supernet` is cheap and stays so; `timm.create_model("local-dir:DIR", pretrained=True)` works
after it, whichever of the two was imported first.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module, util
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

ENTRY_POINTS = "supernet.nn.timm_registry"
ENTRY_POINT = "supernet_subnet"
"""What `config.json` of a subnet folder names."""


def register_with_timm() -> None:
    """Register the entry points now if timm is imported, else right after it will be."""
    if "timm" in sys.modules:
        import_module(ENTRY_POINTS)
    else:
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds timm as others would, once, and has the entry points imported after it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        import_module(ENTRY_POINTS)
