"""Writing so that nothing half-done ever stands under a final name, and saying where a result came from."""

import hashlib
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from regsim.errors import InputError

PACKAGES = ("regsim", "torch", "numpy", "scipy", "SimpleITK")


PART = ".part-"
ABANDONED = 3600.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffixes; renamed to `path` when the block ends without an error.

    A process killed inside the block leaves `path` as it was: the temporary file starts with `.part-`.

    Raises:
        InputError: the folder does not exist or cannot be written, or `path` is a folder.
    """
    check_target(path)
    try:
        handle, name = tempfile.mkstemp(prefix=PART, suffix="-" + path.name, dir=path.parent)
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


@contextmanager
def staged(folder: Path, last: Sequence[str] = (), stale: Sequence[str] = ()) -> Iterator[Path]:
    """A temporary folder inside `folder` to fill; its files are renamed into `folder` when the block ends without an error.

    Until then the files that are there already stay as they are, so a run that fails or is killed while it writes
    does not mix its results with old ones. The files named in `last` follow the others, in that order; those that an earlier
    run left, and the files of the patterns in `stale` that this run does not write, are removed first.
    """
    part = Path(tempfile.mkdtemp(prefix=PART, dir=make_folder(folder)))
    try:
        yield part
        written = {file.name for file in part.iterdir()}
        for pattern in (*reversed(last), *stale):
            for old in folder.glob(pattern):
                if pattern in last or old.name not in written:
                    old.unlink()
        order = {name: place for place, name in enumerate(last, start=1)}
        for file in sorted(part.iterdir(), key=lambda file: (order.get(file.name, 0), file.name)):
            file.replace(folder / file.name)
    finally:
        remove_folder(part)


def remove_folder(folder: Path) -> None:
    """Remove a temporary folder, if it is there; to the end also where the process is told to stop meanwhile."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def check_target(path: Path) -> None:
    """Whether a file can be written, before any work is done.

    Raises:
        InputError: its folder does not exist or cannot be written, or a folder stands under its name.
    """
    try:
        taken, ready = path.is_dir(), path.parent.is_dir()
    except OSError as problem:
        raise InputError(f"cannot write '{path}': {problem.strerror}") from None
    if taken:
        raise InputError(f"cannot write '{path}': a folder stands under that name; give a file")
    if not ready:
        raise InputError(f"cannot write '{path}': there is no folder '{path.parent}'; make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write '{path}': no permission to write in '{path.parent}'")


def check_folder(path: Path) -> None:
    """Whether an output folder is there or can be made, before any work is done.

    Raises:
        InputError: a file stands in the way, or there is no permission.
    """
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise InputError(f"cannot make the folder '{path}': '{there}' is a file; give another -o")
    if not os.access(there, os.W_OK):
        raise InputError(f"cannot make the folder '{path}': no permission to write in '{there}'")


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
    for leftover in path.glob(PART + "*"):
        if time.time() - leftover.lstat().st_mtime > ABANDONED:
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)
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
