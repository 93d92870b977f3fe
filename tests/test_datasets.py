"""Images of digits: the IDX format, where MNIST is looked for, and scikit-learn's digits.

Nothing here reaches beyond this machine: what stands for the mirrors is a server of the test's.
"""

import functools
import gzip
import hashlib
import http.server
import os
import struct
import threading
import time
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pooch
import pytest
import sklearn.datasets

from lrevopt.tasks import datasets
from lrevopt.tasks.datasets import load_images, read_idx, read_pair, shrink

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
REAL_FOLDERS = (
    os.environ.get("LREVOPT_DATA", ""),
    str(Path(__file__).parents[2] / "shared" / "data" / "mnist"),
)


def idx(array, magic=None):
    """An array of bytes in the IDX format, written here from its description."""
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def small_set(seed, count):
    """Random images and labels, few enough to be written in a test."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return images, rng.integers(0, 10, count, dtype=np.uint8)


def small_files(seed=0):
    """Four small IDX files as MNIST names them, unpacked."""
    parts = (*small_set(seed, 7), *small_set(seed + 100, 3))
    return dict(zip(NAMES, map(idx, parts), strict=True))


def write(folder, files, compressed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def published(monkeypatch):
    """Have the small files of seed 0 be the published ones."""
    files = small_files()
    monkeypatch.setattr(
        datasets,
        "MNIST_FILES",
        tuple(
            datasets.PublicFile(name, sha256(gzip.compress(content, mtime=0)), sha256(content))
            for name, content in files.items()
        ),
    )
    return files


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder, no LREVOPT_DATA, and mirrors that nobody can reach."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(pooch, "os_cache", lambda project: folder / project)
    monkeypatch.delenv("LREVOPT_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # Port 9 of this machine, where nothing listens: refused at once.
    monkeypatch.setattr(datasets, "MIRRORS", ("http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"))
    return folder / "lrevopt"


def refusal(call, *arguments):
    """The sentence of a `ValueError`, which hides what it was raised from and has one line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011  # its sentence is the caller's matter
        call(*arguments)
    sentence = str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def assert_same(data, files):
    for name, array in zip(NAMES, arrays_of(data), strict=True):
        assert idx(array) == files[name]
        assert not array.flags.writeable


def arrays_of(data):
    return data.train.images, data.train.labels, data.test.images, data.test.labels


# The IDX format


@hypothesis.given(
    array=hypothesis.extra.numpy.arrays(
        np.uint8, hypothesis.extra.numpy.array_shapes(max_dims=3, min_side=0, max_side=5)
    ),
    compressed=st.booleans(),
)
def test_an_idx_file_comes_back_as_it_was_written(tmp_path_factory, array, compressed):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compressed else "file")
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    back = read_idx(path, array.ndim)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, array)


IMAGES, LABELS = small_set(0, 5)
SOUND = {"images": idx(IMAGES), "labels": idx(LABELS)}
EASY = gzip.compress(idx(IMAGES))

BROKEN = {
    # name: (file, content, packed by the test, sentence)
    "not gzip": ("images", b"<html>", False, "is not a sound gzip archive: Not a gzipped file"),
    "empty archive": ("images", b"", False, "cut short: it unpacks to 0 bytes, .* alone has 16"),
    "end of gzip missing": ("images", EASY[:-9], False, "is cut short: its gzip stream has no end"),
    "damaged gzip": (
        "images",
        EASY[:100] + bytes(b ^ 0xFF for b in EASY[100:110]) + EASY[110:],
        False,
        "is not a sound gzip archive: ",
    ),
    "header missing": ("labels", b"\0\0\x08", True, "cut short: it unpacks to 3 bytes, .* has 8"),
    "signed bytes": (
        "images",
        idx(IMAGES, 0x0903),
        True,
        r"must start with the magic number 0x00000803 \(unsigned bytes, 3 axes\), got 0x00000903",
    ),
    "labels for images": ("images", idx(LABELS) + bytes(99), True, "0x00000803 .*, got 0x00000801"),
    "images for labels": ("labels", idx(IMAGES), True, "0x00000801 .*, got 0x00000803"),
    "last byte missing": (
        "images",
        idx(IMAGES)[:-1],
        True,
        "cut short: its header announces 5 x 28 x 28 = 3920 bytes, and 3919 follow",
    ),
    "a byte too many": ("labels", idx(LABELS) + b"\0", True, "too long: .* 5 = 5 bytes, and 6 f"),
    "absurd size": (
        "images",
        struct.pack(">4I", 0x0803, *3 * [2**32 - 1]),
        True,
        f"cut short: its header announces .* = {(2**32 - 1) ** 3} bytes, and 0 follow",
    ),
    "too few labels": (
        "labels",
        idx(LABELS[:4]),
        True,
        "must hold one label for each image, got 5 images and 4 labels",
    ),
    "small images": (
        "images",
        idx(IMAGES[:, :20, :14]),
        True,
        "must hold images of 28 x 28 pixels, got 20 x 14",
    ),
    "label 10": (
        "labels",
        idx(np.array([1, 9, 10, 200, 0], np.uint8)),
        True,
        "must hold labels from 0 to 9, got 10 for image 2",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_in_one_sentence(tmp_path, case):
    broken, content, packed, message = BROKEN[case]
    paths = {name: tmp_path / f"{name}.gz" for name in SOUND}
    for name, path in paths.items():
        path.write_bytes(gzip.compress(SOUND[name]))
    np.testing.assert_array_equal(read_pair(*paths.values()).images, IMAGES)
    paths[broken].write_bytes(gzip.compress(content) if packed else content)
    sentence = refusal(read_pair, *paths.values())
    assert f"`{paths[broken]}`" in sentence
    with pytest.raises(ValueError, match=message):
        read_pair(*paths.values())


def test_a_file_that_cannot_be_read_is_named_in_one_sentence(tmp_path):
    missing = tmp_path / "nothing.gz"
    assert (
        refusal(read_idx, missing, 1) == f"`{missing}` cannot be read: No such file or directory."
    )
    assert refusal(read_idx, tmp_path, 1) == f"`{tmp_path}` cannot be read: Is a directory."


# Where MNIST is looked for


@pytest.mark.parametrize("inside", [".", "mnist"])
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("named", ["data_dir", "LREVOPT_DATA", "cache"])
def test_files_may_be_packed_or_not_and_in_a_sub_folder(
    monkeypatch, tmp_path, cache, published, inside, compressed, named
):
    folder = cache if named == "cache" else tmp_path / "data"
    write(folder / inside, published, compressed)
    if named == "LREVOPT_DATA":
        monkeypatch.setenv(named, str(folder))
    assert_same(load_images("mnist", folder if named == "data_dir" else None), published)


def test_how_files_were_compressed_does_not_matter(tmp_path, published):
    for name, content in published.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 1, mtime=123))
    assert_same(load_images("mnist", str(tmp_path)), published)


def test_the_argument_goes_before_the_environment_and_that_before_the_cache(
    monkeypatch, tmp_path, cache, published
):
    """Each earlier place holds files that are not MNIST's: their refusal shows who was asked."""
    argument, environment = tmp_path / "argument", tmp_path / "environment"
    write(cache, published)
    assert_same(load_images("mnist"), published)
    monkeypatch.setenv("LREVOPT_DATA", "")
    assert_same(load_images("mnist"), published)
    monkeypatch.setenv("LREVOPT_DATA", str(write(environment, small_files(1))))
    assert f"`{environment}/train-images" in refusal(load_images, "mnist")
    write(argument, small_files(2))
    assert f"`{argument}/train-images" in refusal(load_images, "mnist", argument)
    write(argument, published)
    assert_same(load_images("mnist", argument), published)


@pytest.mark.parametrize("named", ["data_dir", "LREVOPT_DATA"])
def test_a_named_folder_without_the_files_is_refused_though_the_cache_has_them(
    monkeypatch, tmp_path, cache, published, named
):
    write(cache, published)

    def ask(folder):
        if named == "data_dir":
            return refusal(load_images, "mnist", folder)
        monkeypatch.setenv(named, str(folder))
        return refusal(load_images, "mnist")

    beginning = f"`{named}` must be a folder with MNIST's four files {NAMES[0]}.gz, "
    for folder, end in {
        tmp_path / "nowhere": "which is not a folder.",
        write(tmp_path / "empty", {}): f"which lacks {', '.join(NAMES)}.",
        write(tmp_path / "most", dict.fromkeys(NAMES[:3], b"")): f"which lacks {NAMES[3]}.",
    }.items():
        sentence = ask(folder)
        assert sentence.startswith(beginning)
        assert sentence.endswith(f"got '{folder}', {end}")


@pytest.mark.usefixtures("as_user")
def test_what_is_not_a_path_or_a_source_is_refused():
    assert refusal(load_images, "mnist", 3) == "`data_dir` must be a path, got 3."
    assert refusal(load_images, "cifar") == ("`source` must be one of mnist, digits, got 'cifar'.")


def test_sound_files_that_are_not_mnist_are_refused(tmp_path):
    files = small_files()
    sentence = refusal(load_images, "mnist", write(tmp_path, files))
    assert f"`{tmp_path}/{NAMES[0]}.gz` is a sound IDX file but not MNIST's {NAMES[0]}" in sentence
    assert f"got {sha256(files[NAMES[0]])}" in sentence


def test_every_file_is_checked(tmp_path, published):
    for name in NAMES:
        other = published | {name: small_files(5)[name]}
        assert f"not MNIST's {name}:" in refusal(load_images, "mnist", write(tmp_path, other))


def test_images_are_read_once(tmp_path, published):
    folder = write(tmp_path / "data", published)
    assert load_images("mnist", folder) is load_images("mnist", str(folder))
    assert load_images("digits") is load_images("digits", folder)


# The download


class Mirror(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, without a word on the terminal."""

    def log_message(self, format, *arguments):
        pass


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A folder that stands behind the second mirror; the first is out of reach."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Mirror, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setattr(datasets, "MIRRORS", ("http://127.0.0.1:9/", address))
        yield folder
        server.shutdown()
        thread.join()


def test_what_is_missing_is_downloaded_once(monkeypatch, mirror, cache, published):
    write(mirror, published)
    write(cache, {NAMES[1]: published[NAMES[1]]}, compressed=False)
    data = load_images("mnist")
    assert_same(data, published)
    fetched = [f"{name}.gz" for name in NAMES if name != NAMES[1]]
    assert sorted(os.listdir(cache)) == sorted([*fetched, NAMES[1]])
    # From now on the cache is enough.
    monkeypatch.setattr(datasets, "MIRRORS", ())
    assert load_images("mnist") is data


def test_a_download_with_other_bytes_leaves_nothing_behind(mirror, cache, published):
    write(mirror, published | {NAMES[2]: small_files(1)[NAMES[2]]})
    sentence = refusal(load_images, "mnist")
    assert f"has another {NAMES[2]}.gz than the published one" in sentence
    assert sorted(os.listdir(cache)) == sorted(f"{name}.gz" for name in NAMES[:2])


def test_an_interrupted_download_leaves_nothing_behind(monkeypatch, mirror, cache, published):
    write(mirror, published)

    def send_half(handler, source, target):
        target.write(source.read()[:50])

    monkeypatch.setattr(Mirror, "copyfile", send_half)
    refusal(load_images, "mnist")
    assert os.listdir(cache) == []


def test_a_mirror_without_the_files_is_as_good_as_none(mirror, cache):
    assert "cannot be downloaded (no mirror answers)" in refusal(load_images, "mnist")


def test_a_cache_that_cannot_be_written_is_the_reason_given(mirror, cache, published):
    write(mirror, published)
    cache.parent.write_text("a file where a folder has to be")
    assert f"{NAMES[0]}.gz: Not a directory)" in refusal(load_images, "mnist")


def test_offline_one_sentence_says_what_to_do(cache):
    start = time.monotonic()
    sentence = refusal(load_images, "mnist")
    assert time.monotonic() - start < 2 * datasets.PATIENCE
    assert sentence.startswith("MNIST is not on this machine and cannot be downloaded")
    remedies = (*(f"{name}.gz" for name in NAMES), "`data_dir`", "LREVOPT_DATA", str(cache))
    for remedy in (*remedies, 'source="digits"'):
        assert remedy in sentence
    assert not cache.exists()


def test_a_network_that_says_nothing_is_given_up_in_seconds(monkeypatch):
    """As where packets are dropped: looking up a name may take minutes, with no limit to set."""
    silence = threading.Event()
    monkeypatch.setattr(datasets, "PATIENCE", 0.2)
    monkeypatch.setattr(
        pooch, "HTTPDownloader", lambda timeout: lambda *_, check_only: silence.wait(60)
    )
    start = time.monotonic()
    assert "(no mirror answers)" in refusal(load_images, "mnist")
    # 0.2 seconds, on a machine that may be busy.
    assert time.monotonic() - start < 10
    silence.set()


# The real thing, where it is


def real_folder():
    """The folder with MNIST on this machine, or one that does not exist."""
    folders = [Path(folder) for folder in REAL_FOLDERS if folder]
    holding = (
        folder
        for folder in folders
        if any(folder.glob(f"{NAMES[0]}*")) or any(folder.glob(f"mnist/{NAMES[0]}*"))
    )
    return next(holding, Path("no folder with MNIST"))


def test_real_mnist_is_itself_or_its_absence_is_said():
    folder = real_folder()
    if not folder.is_dir():
        assert "which is not a folder" in refusal(load_images, "mnist", folder)
        return
    data = load_images("mnist", folder)
    for part, count in ((data.train, 60_000), (data.test, 10_000)):
        assert part.images.shape == (count, 28, 28)
        assert part.labels.shape == (count,)
        assert (part.images.min(), part.images.max()) == (0, 255)
        # The classes of MNIST hold between 9 and 11.3 per cent of the images each.
        np.testing.assert_allclose(np.bincount(part.labels) / count, 0.1, atol=0.014)
    # The best known numbers of MNIST: the first labels, and the mean and spread of its pixels.
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    pixels = data.train.images / 255
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (0.1307, 0.3081)


# The embedded digits


@pytest.fixture(scope="module")
def digits():
    return load_images("digits")


def originals():
    """scikit-learn's images, 8 x 8, each followed by its digit."""
    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    return pixels.reshape(-1, 8, 8), labels


def enlarged(image):
    """Linear interpolation between pixel centres, one axis at a time; 16 becomes 255."""
    centres, places = np.arange(8) + 0.5, (np.arange(28) + 0.5) * 8 / 28
    rows = np.stack([np.interp(places, centres, row) for row in image])
    return np.stack([np.interp(places, centres, column) for column in rows.T]).T * 255 / 16


def test_digits_are_as_many_as_promised_and_cannot_be_written(digits):
    for part, count in ((digits.train, 1500), (digits.test, 297)):
        assert part.images.shape == (count, 28, 28)
        assert part.labels.shape == (count,)
        assert part.images.dtype == part.labels.dtype == np.uint8
        assert part.images.min() == 0
        assert part.images.max() == 255
        # 1,797 images are not quite balanced: 174 to 183 of each digit.
        np.testing.assert_allclose(np.bincount(part.labels) / count, 0.1, atol=0.005)
    for array in arrays_of(digits):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_digits_are_each_original_once(digits):
    """Every image, train or test, is one original enlarged, and no original is used twice."""
    small, labels = originals()
    expected = np.stack([enlarged(image).ravel() for image in small])
    images = (
        np.concatenate([digits.train.images, digits.test.images]).reshape(-1, 784).astype(float)
    )
    shown = np.concatenate([digits.train.labels, digits.test.labels])
    # The nearest original by squared distance, less the part that all originals share.
    nearest = np.argmin((expected**2).sum(axis=1) - 2 * images @ expected.T, axis=1)
    # Rounded to integers; the rest is round-off of the interpolation.
    assert np.abs(images - expected[nearest]).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(shown, labels[nearest])
    assert sorted(nearest) == list(range(1797))


def test_a_digit_survives_enlarging(digits):
    """Averages over the 8 x 8 areas of the old pixels correlate with some original of it."""
    small, labels = originals()
    edges, pixels = np.linspace(0, 28, 9), np.arange(28)
    upper = np.minimum(pixels + 1, edges[1:, None])
    share = np.clip(upper - np.maximum(pixels, edges[:-1, None]), 0, 1)
    for image, label in zip(digits.test.images[:50], digits.test.labels[:50], strict=True):
        back = (share @ image @ share.T).ravel()
        same = small[labels == label].reshape(-1, 64)
        assert max(np.corrcoef(back, other)[0, 1] for other in same) > 0.95


# Smaller images


@hypothesis.given(
    images=hypothesis.extra.numpy.arrays(np.uint8, (2, 28, 28)), side=st.sampled_from([28, 14, 7])
)
def test_shrinking_keeps_the_mean_of_every_block(images, side):
    small, block = shrink(images, side), 28 // side
    assert small.shape == (2, side, side)
    assert small.dtype == np.uint8
    means = np.zeros((2, side, side))
    for row, column in np.ndindex(side, side):
        rows, columns = (slice(block * k, block * (k + 1)) for k in (row, column))
        means[:, row, column] = images[:, rows, columns].mean(axis=(1, 2))
    assert np.abs(small - means).max() <= 0.5


def test_shrinking_to_the_same_side_changes_nothing_and_not_the_original():
    images = small_set(3, 4)[0]
    np.testing.assert_array_equal(shrink(images, 28), images)
    assert images.flags.writeable


@pytest.mark.usefixtures("as_user")
@pytest.mark.parametrize("side", [4, 10, 56, 0, -7, 14.0, "14", True])
def test_other_sides_are_refused(side):
    sentence = refusal(shrink, small_set(0, 1)[0], side)
    assert sentence.startswith("`side` must be ")
    assert sentence.endswith(f"got {side!r}.")
