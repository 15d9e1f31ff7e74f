"""Show expected errors as one line on stderr with exit code 2."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper

from supernet.errors import KILLED_WORKER, SupernetError, is_killed_worker
from supernet.io.read import visible


@contextmanager
def reported() -> Iterator[None]:
    """Show expected errors as one line on stderr and exit with code 2; 130 after Ctrl-C.

    What is printed may hold names of files that are no text; they are shown escaped. A full disk is
    met by TensorBoard's thread as well: its traceback is held back, as this thread raises the same
    error when it next writes or closes.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    before = threading.excepthook
    threading.excepthook = lambda args: None if _is_expected(args.exc_value) else before(args)
    try:
        yield
    except (SupernetError, OSError, RuntimeError) as error:
        if not _is_expected(error):
            raise
        text = str(error)
        if is_killed_worker(error):
            text = f"{KILLED_WORKER} ({text}); give the same command again"
        print(f"supernet: error: {visible(_one_line(text))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as error:
        text = ": ".join(["supernet: interrupted", *map(str, error.args)])
        print(visible(text), file=sys.stderr)
        raise SystemExit(130) from None
    finally:
        threading.excepthook = before


def _one_line(text: str) -> str:
    """Return the lines of `text` in one; spaces in a line stay, as they may be of a name."""
    return " ".join(line.strip() for line in text.splitlines())


def _is_expected(error: BaseException | None) -> bool:
    return isinstance(error, (SupernetError, OSError)) or is_killed_worker(error)
