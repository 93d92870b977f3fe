"""Named arrays as one .npz with a digest of all bytes.

An .npz is a zip archive of .npy files. It is read strictly: members fill the file without a gap,
every array has as many bytes as its header says, and the digest, where there is one, is right. A
file that is damaged anywhere is refused, or what was damaged does not matter to its content.
"""

import hashlib
import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Inexact

from lrevopt.storage.files import read_settled, write_atomically

DIGEST, SOURCE = "sha256", "made_from"
"""Entries beside the arrays: the digest, and what the arrays were made from, as JSON."""

EXPANSION = 1_100
"""More than the factor by which deflate shrinks anything."""

BITS = 20
"""Of each number that `shortened` keeps: six digits. The rest of losses and distances is round-off,
and would make up a quarter to a half of a file."""


def shortened(values: Inexact[np.ndarray, "..."]) -> Inexact[np.ndarray, "..."]:
    """Numbers rounded to `BITS` significant bits, in their whole range; complex ones by parts."""
    if np.iscomplexobj(values):
        parts = np.stack([values.real, values.imag], axis=-1)
        return shortened(parts).view(values.dtype)[..., 0]
    leading, power = np.frexp(values)
    return np.ldexp(np.round(leading * 2.0**BITS) / 2.0**BITS, power)


def save_npz(
    path: Path | str, arrays: Mapping[str, np.ndarray], source: Mapping[str, Any] | None = None
) -> None:
    """Named arrays as one .npz, with a digest of all bytes.

    `source` is what they were made from, for `load_source`: anything that JSON holds.
    """
    write_atomically(path, npz_bytes(arrays, source))


def npz_bytes(arrays: Mapping[str, np.ndarray], source: Mapping[str, Any] | None = None) -> bytes:
    """What `save_npz` writes."""
    entries = dict(arrays)
    if source is not None:
        entries[SOURCE] = np.asarray(json.dumps(source, sort_keys=True), np.str_)
    buffer = io.BytesIO()
    named: Any = {DIGEST: digest_of_arrays(entries)} | entries
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def load_npz(path: Path | str) -> dict[str, np.ndarray]:
    """What `save_npz` wrote; `ValueError` if it is missing or damaged."""
    arrays, sealed = read_entries(path)
    if not sealed:
        raise ValueError(f"`{path}` is damaged: its digest does not match.")
    arrays.pop(SOURCE, None)
    return arrays


def load_source(path: Path | str) -> dict[str, Any] | None:
    """What the arrays of a file were made from; `None` where it does not say.

    Raises `ValueError` if the file is missing or damaged.
    """
    arrays, _ = read_entries(path)
    return json.loads(str(arrays[SOURCE])) if SOURCE in arrays else None


def read_entries(path: Path | str) -> tuple[dict[str, np.ndarray], bool]:
    """All entries of an .npz but the digest, and whether it had one.

    Raises `ValueError` if it is missing or damaged.
    """
    path = Path(path)
    return read_settled(lambda: _read_entries(path), path)


def _read_entries(path: Path) -> tuple[dict[str, np.ndarray], bool]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error.strerror or error}.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            arrays = _unpacked(content)
    except Exception as error:  # damaged directories and headers raise errors of a dozen kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"`{path}` is damaged: {reason.rstrip('.')}.") from None
    digest = arrays.pop(DIGEST, None)
    if digest is not None and not np.array_equal(digest, digest_of_arrays(arrays)):
        raise ValueError(f"`{path}` is damaged: its digest does not match.")
    return arrays, digest is not None


def _unpacked(content: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = file.infolist()
        _check_complete(members, content, file.start_dir)
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("two of its arrays have one name")
        pairs = zip(names, members, strict=True)
        return {name: _array(name, file.read(member)) for name, member in pairs}


def _check_complete(members: list[zipfile.ZipInfo], content: bytes, directory: int) -> None:
    """Raise `ValueError` unless the members fill the archive up to its directory."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset != end:
            raise ValueError("its directory does not list what it holds")
        if member.file_size > EXPANSION * (member.compress_size + 1):
            raise ValueError(f"it cannot hold the {member.file_size} bytes that are announced")
        name, extra = struct.unpack_from("<HH", content, end + 26)
        end += 30 + name + extra + member.compress_size
    if end != directory:
        raise ValueError("its directory does not list what it holds")


def _array(name: str, data: bytes) -> np.ndarray:
    """The array in an .npy file. Raises `ValueError` if its size is not what its header says."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    if version[0] > 1:
        read = np.lib.format.read_array_header_2_0
    shape, _, kind = read(stream)
    announced, found = math.prod(shape) * kind.itemsize, len(data) - stream.tell()
    if kind.hasobject or announced != found:
        raise ValueError(f"the header of {name} announces {announced} bytes, but {found} follow")
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """SHA-256 of names, dtypes, shapes and bytes, as 32 numbers."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        total.update(array.tobytes())
    return np.frombuffer(total.digest(), np.uint8).copy()
