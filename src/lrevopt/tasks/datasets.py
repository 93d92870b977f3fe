"""Images of handwritten digits: MNIST, or the small digits that come with scikit-learn.

MNIST is four IDX files. They are searched in `data_dir`, in the folder that the environment
variable LREVOPT_DATA names, and in the user's cache folder, into which they are downloaded if no
folder is named and the cache lacks them. A named folder must hold all four; otherwise that is an
error. Wherever the files come from, the sha256 of their unpacked bytes must be the published one,
so that results on MNIST are comparable. Their compression does not matter.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import math
import os
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import equinox as eqx
import numpy as np
from jaxtyping import UInt8

from lrevopt.checks import one_of, positive_integer

Source = Literal["mnist", "digits"]
"""Where images come from. "digits" needs no files: scikit-learn has these 1,797 images."""

SIDE = 28
"""Height and width of a loaded image in pixels."""

SIDES = (28, 14, 7)
"""Sizes that `shrink` offers. Three 3x3 convolutions without padding need at least 7."""

ENVIRONMENT = "LREVOPT_DATA"
"""Environment variable that names the folder of the four files."""


class PublicFile(NamedTuple):
    """One of MNIST's files and its published sha256, before and after unpacking."""

    name: str
    compressed: str
    unpacked: str

    @property
    def archive(self) -> str:
        """Name of the compressed file."""
        return f"{self.name}.gz"


MNIST_FILES = (
    PublicFile(
        "train-images-idx3-ubyte",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    PublicFile(
        "train-labels-idx1-ubyte",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    PublicFile(
        "t10k-images-idx3-ubyte",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    PublicFile(
        "t10k-labels-idx1-ubyte",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)
"""Images and labels for training, then images and labels for testing."""

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
"""Public copies of the archives, tried in this order."""

LARGEST = 2**26
"""Bytes that are read of a file at most; the largest of MNIST's has 47 MB."""

PATIENCE = 8.0
"""Seconds to wait for the answer of a mirror."""


class LabelledImages(eqx.Module):
    """Grey images, strokes near 255 on a ground of 0, and their digits. Arrays are read-only."""

    images: UInt8[np.ndarray, "image height width"]
    labels: UInt8[np.ndarray, " image"]


class ImageData(eqx.Module):
    """Training images and test images."""

    train: LabelledImages
    test: LabelledImages


def load_images(source: Source, data_dir: str | os.PathLike[str] | None = None) -> ImageData:
    """Images of 28 x 28 pixels, read once per process and then shared.

    For "mnist", `data_dir` is a folder that holds the four files, compressed or not, directly or in
    a sub-folder `mnist`. For "digits" it is ignored. Raises `ValueError` for another source, a
    folder without the files, files that are damaged or not MNIST's, and if nothing is found and
    nothing can be downloaded.
    """
    one_of("source", source, get_args(Source))
    return _digits() if source == "digits" else _mnist(_find_mnist(data_dir))


def shrink(
    images: UInt8[np.ndarray, "image 28 28"], side: int
) -> UInt8[np.ndarray, "image {side} {side}"]:
    """Images whose pixels are the means of blocks, rounded to the nearest integer.

    Raises `ValueError` unless `side` is 28, 14 or 7.
    """
    if positive_integer("side", side) not in SIDES:
        raise ValueError(f"`side` must be one of {', '.join(map(str, SIDES))}, got {side!r}.")
    block = SIDE // side
    # At most 16 times 255: the sum fits 16 bits and the quotient is exact in single precision.
    # One strided view per position in a block is several times faster than a sum over two axes.
    total = np.zeros((len(images), side, side), np.uint16)
    for row, column in np.ndindex(block, block):
        total += images[:, row::block, column::block]
    return _read_only(np.rint(total / block**2).astype(np.uint8))


def read_idx(path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an IDX file, gzipped if its name ends in `.gz`.

    The file has four bytes `0, 0, 8, axes`, four bytes for the size of each axis, then the data.
    Raises `ValueError` for a file that is missing, damaged, too short or too long, or of another
    format.
    """
    content = _unpacked(path)
    header, magic = 4 + 4 * axes, bytes((0, 0, 8, axes))
    if len(content) < header:
        raise ValueError(
            f"`{path}` is cut short: it unpacks to {len(content)} bytes, and an IDX header alone "
            f"has {header}."
        )
    if content[:4] != magic:
        raise ValueError(
            f"`{path}` must start with the magic number 0x{magic.hex()} (unsigned bytes, {axes} "
            f"axes), got 0x{content[:4].hex()}."
        )
    sizes = struct.unpack_from(f">{axes}I", content, 4)
    expected, found = math.prod(sizes), len(content) - header
    if found != expected:
        raise ValueError(
            f"`{path}` is {'cut short' if found < expected else 'too long'}: its header announces "
            f"{' x '.join(map(str, sizes))} = {expected} bytes, and {found} follow."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)


def _unpacked(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if path.suffix != ".gz":
            return content
        # Read in part, whatever a damaged archive claims to unpack to.
        return gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST)
    except EOFError:
        raise ValueError(f"`{path}` is cut short: its gzip stream has no end.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"`{path}` is not a sound gzip archive: {error}.") from None
    except OSError as error:
        raise ValueError(f"`{path}` cannot be read: {error.strerror}.") from None


def read_pair(images_path: Path, labels_path: Path) -> LabelledImages:
    """The images of one IDX file with the labels of another.

    Raises `ValueError` unless images are 28 x 28, labels are digits, and there is one for each.
    """
    images, labels = read_idx(images_path, axes=3), read_idx(labels_path, axes=1)
    count, *size = images.shape
    if size != [SIDE, SIDE]:
        raise ValueError(
            f"`{images_path}` must hold images of {SIDE} x {SIDE} pixels, got {size[0]} x "
            f"{size[1]}."
        )
    if count != labels.size:
        raise ValueError(
            f"`{images_path}` and `{labels_path}` must hold one label for each image, got {count} "
            f"images and {labels.size} labels."
        )
    if labels.size and labels.max() > 9:
        where = int(np.argmax(labels > 9))
        raise ValueError(
            f"`{labels_path}` must hold labels from 0 to 9, got {labels[where]} for image {where}."
        )
    return LabelledImages(images, labels)


# The checksums fix the content, so one copy serves every folder.
@functools.lru_cache(maxsize=1)
def _mnist(paths: tuple[Path, ...]) -> ImageData:
    train, test = read_pair(*paths[:2]), read_pair(*paths[2:])
    arrays = (train.images, train.labels, test.images, test.labels)
    for path, array, file in zip(paths, arrays, MNIST_FILES, strict=True):
        _check_published(path, array, file)
    return ImageData(train, test)


def _check_published(path: Path, array: UInt8[np.ndarray, "..."], file: PublicFile) -> None:
    """Compare with the published sha256. Header and array are the whole file (see `read_idx`)."""
    axes = array.ndim
    digest = hashlib.sha256(struct.pack(f">4B{axes}I", 0, 0, 8, axes, *array.shape))
    digest.update(array.data)
    if digest.hexdigest() != file.unpacked:
        raise ValueError(
            f"`{path}` is a sound IDX file but not MNIST's {file.name}: the sha256 of its unpacked "
            f"bytes must be {file.unpacked}, got {digest.hexdigest()}."
        )


def _find_mnist(data_dir: str | os.PathLike[str] | None) -> tuple[Path, ...]:
    if data_dir is not None:
        try:
            folder = Path(data_dir)
        except TypeError:
            raise ValueError(f"`data_dir` must be a path, got {data_dir!r}.") from None
        return _in_named_folder("data_dir", folder)
    if named := os.environ.get(ENVIRONMENT):
        return _in_named_folder(ENVIRONMENT, Path(named))
    return _cached_or_downloaded()


def _in_folder(folder: Path, file: PublicFile) -> Path | None:
    """Path of this file in a folder, if it is there: compressed, unpacked, then in `mnist`."""
    places = (
        place / name for place in (folder, folder / "mnist") for name in (file.archive, file.name)
    )
    return next((path for path in places if os.path.isfile(path)), None)


def _in_named_folder(name: str, folder: Path) -> tuple[Path, ...]:
    """The four files of a folder named by an argument or in the environment."""
    with contextlib.suppress(RuntimeError):  # the home of nobody, which is no folder then
        folder = folder.expanduser()
    found = {file: _in_folder(folder, file) for file in MNIST_FILES}
    missing = [file.name for file, path in found.items() if path is None]
    if missing:
        lack = f"lacks {', '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise ValueError(
            f"`{name}` must be a folder with MNIST's four files {_listing()} (unpacked ones will "
            f"do, and so will a sub-folder mnist), got {str(folder)!r}, which {lack}."
        )
    return tuple(path for path in found.values() if path is not None)


def _listing() -> str:
    *most, last = (file.archive for file in MNIST_FILES)
    return f"{', '.join(most)} and {last}"


def _cached_or_downloaded() -> tuple[Path, ...]:
    import pooch  # not at the top: it would slow down every import of the package

    cache = Path(pooch.os_cache("lrevopt"))
    found = {file: _in_folder(cache, file) for file in MNIST_FILES}
    try:
        # Asked once for all files, and only if something is missing.
        mirrors = [] if all(found.values()) else _mirrors_that_answer()
        return tuple(path or _download(file, cache, mirrors) for file, path in found.items())
    except _NotDownloadedError as error:
        raise ValueError(
            f"MNIST is not on this machine and cannot be downloaded ({error}): put {_listing()} "
            f"into a folder that `data_dir` or the environment variable {ENVIRONMENT} names, or "
            f'into {cache}, or choose source="digits", which needs no files.'
        ) from None


class _NotDownloadedError(Exception):
    """The reason why a download failed, as a clause for the error message."""


def _mirrors_that_answer() -> list[str]:
    """Mirrors that have the first file, all asked at once.

    In threads, because looking up a host has no time limit of its own.
    """
    import pooch

    answers: dict[str, bool] = {}

    def ask(mirror: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            head = pooch.HTTPDownloader(timeout=PATIENCE)
            url = f"{mirror}{MNIST_FILES[0].archive}"
            answers[mirror] = head(url, None, None, check_only=True)

    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in MIRRORS]
    deadline = time.monotonic() + PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [mirror for mirror in MIRRORS if answers.get(mirror)]


def _download(file: PublicFile, cache: Path, mirrors: list[str]) -> Path:
    """Download one archive into the cache from the first mirror that has the published bytes.

    Until its checksum is verified it has a temporary name, which pooch removes.
    """
    import pooch

    reason = "no mirror answers"
    for mirror in mirrors:
        try:
            downloaded = pooch.retrieve(
                f"{mirror}{file.archive}",
                known_hash=f"sha256:{file.compressed}",
                fname=file.archive,
                path=cache,
                downloader=pooch.HTTPDownloader(timeout=PATIENCE),
            )
        except ValueError:
            reason = f"{mirror} has another {file.archive} than the published one"
        except OSError as error:
            reason = f"{mirror}{file.archive}: {error.strerror or type(error).__name__}"
        else:
            return Path(downloaded)
    raise _NotDownloadedError(reason)


@functools.lru_cache(maxsize=1)
def _digits() -> ImageData:
    """scikit-learn's digits, enlarged from 8 x 8 and 17 levels to 28 x 28 and 256.

    Images are interpolated linearly between the centres of pixels. There are 1,500 training and 297
    test images, a fixed split that is stratified by digit.
    """
    from scipy.ndimage import zoom  # not at the top: import weight
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    small = pixels.reshape(-1, 8, 8) * (255 / 16)
    large = zoom(small, (1, SIDE / 8, SIDE / 8), order=1, mode="nearest", grid_mode=True)
    images = np.rint(large).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(labels)), train_size=1500, stratify=labels, random_state=0
    )
    return ImageData(
        *(
            LabelledImages(_read_only(images[part]), _read_only(labels[part].astype(np.uint8)))
            for part in (train, test)
        )
    )


def _read_only(array: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    array.flags.writeable = False
    return array
