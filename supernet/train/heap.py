"""Memory that was freed, given back to the system.

Subnets of many sizes leave the C library's heap full of holes, so a process that trains them grows
by some hundred MiB an hour though it holds no more than before.
"""

from __future__ import annotations

import ctypes


def trim() -> None:
    """Give freed memory back, where the C library is glibc; elsewhere do nothing."""
    try:
        glibc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another library, or Windows
        return
    glibc_trim(0)
