"""What may be read from disk: which endings, and the checks that a file is whole before anything trusts it."""

import gzip
import struct
import zlib
from pathlib import Path

from regsim.errors import InputError

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ENDINGS = VOLUMES + PICTURES
NIFTI_BITS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64, 2304: 32}


def ending(path: Path) -> str:
    """The ending of a file that decides how it is read, in lower case.

    >>> ending(Path("sub-01.T1w.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return next(
        (known for known in sorted(ENDINGS, key=len, reverse=True) if name.endswith(known)), path.suffix.lower()
    )


def check_file(path: Path) -> None:
    """One clear line for a file that is missing, empty, of an unknown kind, or shorter than its header says.

    Raises:
        InputError: says which.
    """
    if not path.exists():
        raise InputError(f"'{path}' does not exist")
    if path.is_dir():
        return
    kind = ending(path)
    if kind not in ENDINGS:
        raise InputError(
            f"'{path}': cannot read '{kind or 'no ending'}'; expected {', '.join(ENDINGS)} or a DICOM folder"
        )
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty (0 bytes)")
    if kind in (".nii", ".nii.gz"):
        _check_nifti(path, kind)


def _check_nifti(path: Path, kind: str) -> None:
    """A NIfTI file must hold as many bytes as its header announces; ITK fills what is missing with zeros and goes on."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    if kind == ".nii.gz" and not zipped:
        raise InputError(f"'{path}' ends in .gz but is not gzip; rename it to what it is, or compress it")
    try:
        with gzip.open(path) if zipped else path.open("rb") as stream:
            header = stream.read(352)
            wanted = _nifti_bytes(path, header)
            held = len(header)
            while block := stream.read(1 << 22):
                held += len(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError(f"'{path}' is truncated or damaged: its gzip stream ends too early; copy it again") from None
    if held < wanted:
        raise InputError(f"'{path}' is truncated: {held} bytes, its header announces {wanted}; copy it again")


def _nifti_bytes(path: Path, header: bytes) -> int:
    """How long the (unzipped) file must be: offset of the data plus voxels times bytes per voxel."""
    size = {order: struct.unpack(order + "i", header[:4])[0] for order in "<>"} if len(header) >= 348 else {}
    order = next((order for order, length in size.items() if length in (348, 540)), None)
    if order is None:
        raise InputError(f"'{path}' is not a NIfTI file (its header is not one)")
    if size[order] == 540:
        return 540
    dims = struct.unpack(order + "8h", header[40:56])
    kind = struct.unpack(order + "h", header[70:72])[0]
    offset = struct.unpack(order + "f", header[108:112])[0]
    if not 1 <= dims[0] <= 7 or kind not in NIFTI_BITS:
        raise InputError(f"'{path}' is not a NIfTI image that can be read ({dims[0]} axes, data type {kind})")
    voxels = 1
    for length in dims[1 : dims[0] + 1]:
        voxels *= max(1, length)
    single = header[344:347] == b"n+1"
    return (int(offset) if single else 0) + voxels * NIFTI_BITS[kind] // 8
