"""The board that tests of strangers talk to."""

from tests.latency.conftest import server

__all__ = ["server"]
