"""Writing so that nothing half-done ever stands under a final name, and saying where a result came from."""

import hashlib
import importlib.metadata
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from regsim.errors import InputError

PACKAGES = ("regsim", "torch", "numpy", "scipy", "SimpleITK")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffixes; renamed to `path` when the block ends without an error.

    A process killed inside the block leaves `path` as it was: the temporary file starts with `.part-`.

    Raises:
        InputError: the folder does not exist or cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
    except OSError as problem:
        raise InputError(f"cannot write '{path}': {problem.strerror}") from None
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one piece."""
    with atomic_path(path) as part:
        part.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> Path:
    """The output folder, made where it is missing.

    Raises:
        InputError: a file stands there, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot make the folder '{path}': {problem.strerror}") from None
    for leftover in path.glob(".part-*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            leftover.unlink(missing_ok=True)
    return path


def sha256(path: Path) -> str:
    """The hash of a file, or of all files of a folder in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def size_in_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]) if file.is_file())


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": sys.version.split()[0], **found}


def now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB; 0 where the system does not tell (Windows)."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
