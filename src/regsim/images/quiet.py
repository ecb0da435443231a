"""Silence for the C libraries below SimpleITK, which print to standard error what their exception then says again."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


class _Silence:
    """Standard error as it was, and how many blocks are open: the first one in closes it, the last one out opens it."""

    def __init__(self) -> None:
        self.lock, self.depth, self.kept = threading.Lock(), 0, -1

    def enter(self) -> None:
        with self.lock:
            self.depth += 1
            if self.depth == 1:
                self.kept = _silenced()

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0 and self.kept >= 0:
                os.dup2(self.kept, STDERR)
                os.close(self.kept)


_silence = _Silence()


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing reaches standard error while the block runs; several threads may be inside at once."""
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()


def _silenced() -> int:
    """Point standard error at nothing; a copy of what it was, or -1 where there is none."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        kept = os.dup(STDERR)
    except (OSError, ValueError):
        return -1
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, STDERR)
    os.close(sink)
    return kept
