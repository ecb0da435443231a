"""What may be read from disk: which endings, and the checks that a file is whole before anything trusts it."""

import os
import struct
from pathlib import Path

from regsim.errors import InputError

VOLUMES = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ENDINGS = VOLUMES + PICTURES
SAMPLES, PHOTOMETRIC = 277, 262
READERS = {
    "NiftiImageIO": (".nii", ".nii.gz"),
    "MetaImageIO": (".mha", ".mhd"),
    "NrrdImageIO": (".nrrd", ".nhdr"),
    "PNGImageIO": (".png",),
    "JPEGImageIO": (".jpg", ".jpeg"),
    "TIFFImageIO": (".tif", ".tiff"),
}


def ending(path: Path) -> str:
    """The ending of a file that decides how it is read, in lower case.

    >>> ending(Path("sub-01.T1w.NII.GZ"))
    '.nii.gz'
    """
    name = path.name.lower()
    return next(
        (known for known in sorted(ENDINGS, key=len, reverse=True) if name.endswith(known)), path.suffix.lower()
    )


def reader_name(path: Path) -> str:
    """ITK's reader for a file's ending, so that nothing is read as what it is not called.

    >>> reader_name(Path("a.tiff"))
    'TIFFImageIO'
    """
    return next(name for name, endings in READERS.items() if ending(path) in endings)


def check_file(path: Path) -> None:
    """One clear line for a file that is missing, empty or of an unknown kind, or a JPEG that is cut short.

    Raises:
        InputError: says which.
    """
    try:
        there, folder, readable = path.exists(), path.is_dir(), os.access(path, os.R_OK)
    except OSError as problem:
        raise InputError(f"'{path}' cannot be read: {problem.strerror}") from None
    if not there:
        raise InputError(f"'{path}' does not exist")
    if not readable:
        raise InputError(f"'{path}' cannot be read: no permission")
    if folder:
        return
    kind = ending(path)
    if kind not in ENDINGS:
        raise InputError(
            f"'{path}': cannot read '{kind or 'no ending'}'; expected {', '.join(ENDINGS)} or a DICOM folder"
        )
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty (0 bytes)")
    if kind in (".jpg", ".jpeg"):
        _check_jpeg(path)
    if kind in (".tif", ".tiff"):
        _check_tiff(path)


def _check_jpeg(path: Path) -> None:
    """The last scan must be followed by the end marker; ITK paints what is missing grey and goes on."""
    stored = path.read_bytes()
    if stored.startswith(b"\xff\xd8") and stored.rfind(b"\xff\xd9") < stored.rfind(b"\xff\xda"):
        raise InputError(f"'{path}' is truncated: its end marker is missing; copy it again")


def _check_tiff(path: Path) -> None:
    """Two kinds that ITK reads without a word, and wrongly: grey with alpha (garbled) and white-is-zero (a negative)."""
    try:
        tags = _tiff_tags(path)
    except struct.error:
        tags = {}  # damaged: ITK says so
    if tags.get(SAMPLES) == 2:
        raise InputError(
            f"'{path}' holds 2 values per pixel (grey with alpha), which cannot be read; save it without alpha"
        )
    if tags.get(PHOTOMETRIC) == 0:
        raise InputError(f"'{path}' is a negative (white-is-zero TIFF), which cannot be read; save it as black-is-zero")


def _tiff_tags(path: Path) -> dict[int, int]:
    """The short tags of the first directory of a TIFF or BigTIFF file."""
    with path.open("rb") as stream:
        head = stream.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None:
            return {}
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        stream.seek(struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0])
        count = struct.unpack(order + ("Q" if big else "H"), stream.read(8 if big else 2))[0]
        entry, value = (20, 12) if big else (12, 8)
        raw = stream.read(min(count, 1000) * entry)
    places = range(0, len(raw) - entry + 1, entry)
    return {
        struct.unpack_from(order + "H", raw, place)[0]: struct.unpack_from(order + "H", raw, place + value)[0]
        for place in places
    }
