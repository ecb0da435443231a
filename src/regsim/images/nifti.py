"""What ITK does not notice in a NIfTI file: missing bytes, a geometry that no space can have, and NaN (it reads 0)."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from regsim.errors import GridError, InputError

BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 1792: 128, 32: 64}
BITS |= {2304: 32}
FLOATS = {16: "f4", 64: "f8"}
LENGTH, FIRST = 348, 352
# Format and place of each field that is looked at.
LAYOUT = {"dims": ("8h", 40), "kind": ("h", 70), "pixdim": ("8f", 76), "offset": ("f", 108), "sform": ("h", 254)}
LAYOUT |= {"rows": ("12f", 280), "magic": ("4s", 344)}
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """The fields of a NIfTI header that decide whether the file can be trusted."""

    order: str
    dims: tuple[int, ...]
    kind: int
    pixdim: tuple[float, ...]
    offset: int
    sform: tuple[float, ...] | None

    @property
    def values(self) -> int:
        """How many numbers the file holds."""
        count = 1
        for length in self.dims[1 : self.dims[0] + 1]:
            count *= max(1, length)
        return count

    @property
    def length(self) -> int:
        """How long the (unzipped) file must be."""
        return self.offset + self.values * BITS[self.kind] // 8


def check_nifti(path: Path) -> Positions:
    """Read a NIfTI file through.

    Returns:
        The positions, in the order of the file, of the values that are NaN or infinite.

    Raises:
        InputError: no NIfTI, truncated, damaged, or not zipped although it ends in .gz.
        GridError: an affine that cannot be inverted, or a voxel size of zero.
    """
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    if zipped != path.name.lower().endswith(".gz"):
        really = "ends in .gz but is not gzip" if not zipped else "is gzip but does not end in .gz"
        raise InputError(f"'{path}' {really}; rename it to what it is")
    try:
        with gzip.open(path) if zipped else path.open("rb") as stream:
            return _through(path, cast(BinaryIO, stream))
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError(f"'{path}' is truncated or damaged: its gzip stream ends too early; copy it again") from None


def _through(path: Path, stream: BinaryIO) -> Positions:
    header = _header(path, stream.read(FIRST))
    _check_geometry(path, header)
    stream.seek(header.offset)
    held, found = header.offset, [np.empty(0, np.int64)]
    while block := stream.read(1 << 22):
        if header.kind in FLOATS:
            found.append(_bad(block, header.order + FLOATS[header.kind]) + (held - header.offset) // _width(header))
        held += len(block)
    if held < header.length:
        raise InputError(f"'{path}' is truncated: {held} bytes, its header announces {header.length}; copy it again")
    together = np.concatenate(found)
    return together[together < header.values]


def _width(header: Header) -> int:
    return BITS[header.kind] // 8


def _bad(block: bytes, kind: str) -> Positions:
    whole = len(block) - len(block) % np.dtype(kind).itemsize
    return np.flatnonzero(~np.isfinite(np.frombuffer(block[:whole], dtype=kind)))


def _header(path: Path, raw: bytes) -> Header:
    if raw[4:7] in (b"n+2", b"ni2"):
        raise InputError(f"'{path}' is NIfTI-2, which ITK cannot read; save it as NIfTI-1")
    orders = [order for order in "<>" if len(raw) >= LENGTH and struct.unpack(order + "i", raw[:4])[0] == LENGTH]
    if not orders:
        raise InputError(f"'{path}' is not a NIfTI file (its header is not one)")
    read = {name: struct.unpack_from(orders[0] + form, raw, place) for name, (form, place) in LAYOUT.items()}
    dims, kind = read["dims"], read["kind"][0]
    if not 1 <= dims[0] <= 7 or kind not in BITS or read["magic"][0] != b"n+1\0":
        raise InputError(f"'{path}' is not a NIfTI image that can be read ({dims[0]} axes, data type {kind})")
    place = read["offset"][0]
    offset = max(int(place), FIRST) if math.isfinite(place) else FIRST
    return Header(orders[0], dims, kind, read["pixdim"], offset, read["rows"] if read["sform"][0] > 0 else None)


def _check_geometry(path: Path, header: Header) -> None:
    """ITK takes a voxel size of 0 as 1, and a NaN as it is."""
    axes = [axis for axis in range(1, min(header.dims[0], 3) + 1) if header.dims[axis] > 1]
    sizes = np.array([header.pixdim[axis] for axis in axes])
    if not (np.isfinite(sizes).all() and (sizes != 0).all()):
        given = " x ".join(f"{size:g}" for size in sizes)
        raise GridError(f"'{path}': its header says voxels of {given} mm; repair the header's geometry")
    if header.sform is not None:
        matrix = np.reshape(header.sform, (3, 4))[:, :3]
        lengths = np.linalg.norm(matrix, axis=0)
        if not np.isfinite(header.sform).all() or not abs(np.linalg.det(matrix)) > 1e-6 * lengths.prod():
            raise GridError(f"'{path}': its affine (sform) is not invertible; repair the header's geometry")
