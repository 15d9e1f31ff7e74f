"""The version of this package, as files and records name it."""

from __future__ import annotations

from importlib import metadata


def tool_version() -> str:
    """Return the version of this package."""
    try:
        return metadata.version("supernet")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
