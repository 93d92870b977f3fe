"""Damage by a seeded generator: every file is refused by name, or has exactly its content.

Bits are flipped all over zip archives and in JSON, files are cut, blocks are lost, members are
exchanged, and headers, types and shapes are made up. Never may a file load as something else.
"""

import dataclasses
import functools
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
import pytest
import synthetic_records as made
from test_records import assert_equal

import lrevopt as lo
from lrevopt import storage
from lrevopt.optimizers import saved
from lrevopt.runs.contents import Run
from lrevopt.storage.packed import npz_bytes

LEAST_TRIED = 300

Damage = Callable[[bytes, random.Random], bytes]


def flipped(start: int, end: int) -> Damage:
    """One bit between two places, counted from the end if negative."""

    def damage(data: bytes, dice: random.Random) -> bytes:
        low, high = (place % len(data) if place < 0 else place for place in (start, end))
        place = dice.randrange(low, min(high, len(data)))
        return data[:place] + bytes([data[place] ^ 1 << dice.randrange(8)]) + data[place + 1 :]

    return damage


def flipped_in_directory(data: bytes, dice: random.Random) -> bytes:
    """One bit in the central directory of a zip archive."""
    (start,) = struct.unpack_from("<I", data, len(data) - 6)
    return flipped(start, len(data) - 22)(data, dice)


def flipped_in_a_local_header(data: bytes, dice: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        start = dice.choice(file.infolist()).header_offset
    return flipped(start, start + 30)(data, dice)


def cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def lost_block(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data))
    return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]


def grown(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data))
    return data[:place] + dice.randbytes(9) + data[place:]


def repacked(change: Callable[[list[tuple[str, bytes]], random.Random], None]) -> Damage:
    """The archive written again, sound as a zip, with other members."""

    def damage(data: bytes, dice: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = [(name, file.read(name)) for name in file.namelist()]
        change(members, dice)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members:
                file.writestr(name, content)
        return buffer.getvalue()

    return damage


def swap(members: list[tuple[str, bytes]], dice: random.Random) -> None:
    """Two members exchange their names."""
    pairs = [(i, k) for i, one in enumerate(members) for k, two in enumerate(members[:i])
             if one[1] != two[1]]  # fmt: skip
    first, second = dice.choice(pairs)
    names = members[first][0], members[second][0]
    members[first] = (names[1], members[first][1])
    members[second] = (names[0], members[second][1])


def lose(members: list[tuple[str, bytes]], dice: random.Random) -> None:
    names = [place for place, (name, _) in enumerate(members) if name != "sha256.npy"]
    del members[dice.choice(names)]


def announce(members: list[tuple[str, bytes]], dice: random.Random) -> None:
    """A header that announces 8 TB."""
    place = dice.randrange(len(members))
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    size = struct.pack("<H", len(header) + 1)
    members[place] = (members[place][0], b"\x93NUMPY\x01\x00" + size + header + b"\n" + bytes(8))


def spoil_header(members: list[tuple[str, bytes]], dice: random.Random) -> None:
    """A bit of an array's header; the checksum of the archive does not know."""
    place = dice.randrange(len(members))
    name, content = members[place]
    members[place] = (name, flipped(0, 80)(content, dice))


def as_npy(data: bytes, dice: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(dice.randrange(1, 9)))
    return buffer.getvalue()


ARCHIVES: dict[str, tuple[Damage, int]] = {
    "a bit anywhere": (flipped(0, -1), 6),
    "a bit of the directory": (flipped_in_directory, 8),
    "a bit of the end record": (flipped(-22, -1), 4),
    "a bit of a local header": (flipped_in_a_local_header, 4),
    "cut": (cut, 4),
    "a lost block": (lost_block, 3),
    "more bytes": (grown, 3),
    "members exchanged": (repacked(swap), 3),
    "a member lost": (repacked(lose), 2),
    "8 TB announced": (repacked(announce), 1),
    "a header spoilt": (repacked(spoil_header), 3),
    "an .npy": (as_npy, 1),
}
"""Damage to an .npz, and how often each file has it."""


def wrong_field(record: Any, dice: random.Random) -> bytes:
    """A sound file with its checksum, of which one field has another type or shape."""
    arrays = _arrays(record)
    fields = [name for name, array in arrays.items() if array.dtype.kind in "fc" and array.ndim]
    name = dice.choice(fields)
    change: Callable[[np.ndarray], np.ndarray] = dice.choice(
        [
            lambda array: array[None],
            lambda array: array.astype(str),
            lambda array: array > 0,
            lambda array: array.ravel()[:0].reshape((0,) * (array.ndim + 1)),
        ]
    )
    return npz_bytes(arrays | {name: change(arrays[name])})


def _arrays(record: Any) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(storage.record_bytes(record))) as file:
        return {name: file[name] for name in file.files if name != storage.DIGEST}


RECORDS: dict[str, Callable[[], Any]] = {
    "evaluation": made.evaluation,
    "mechanisms": made.mechanisms,
    "tuning": lambda: made.tuning("adam"),
    "history": made.history,
    "scorecard": lambda: made.scorecard(reason="none"),
}

LEAVES = [None, True, -1, 1e300, "x", [], {}, [[1]], {"shape": [200_000]}]


def wrong_leaf(data: bytes, dice: random.Random) -> bytes:
    """One entry of a JSON file, at any depth, becomes something else; without a checksum."""
    content = json.loads(data)
    del content[storage.DIGEST]
    place: Any = content
    while True:
        key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not (isinstance(place[key], dict | list) and place[key] and dice.random() < 0.7):
            break
        place = place[key]
    place[key] = dice.choice(LEAVES)
    return json.dumps(content).encode()


def edited(data: bytes, dice: random.Random) -> bytes:
    """A digit somewhere becomes another one."""
    places = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    place = dice.choice(places)
    return data[:place] + str((int(chr(data[place])) + 1) % 10).encode() + data[place + 1 :]


def deep(data: bytes, dice: random.Random) -> bytes:
    return b'{"task": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


DOCUMENTS: dict[str, tuple[Damage, int]] = {
    "a bit": (flipped(0, -1), 30),
    "a digit": (edited, 15),
    "cut": (cut, 8),
    "a lost block": (lost_block, 6),
    "more bytes": (grown, 6),
    "nested 100,000 deep": (deep, 1),
}
"""Damage to a JSON file."""


@dataclasses.dataclass
class Case:
    """A damaged file, what reads it, and what it held."""

    what: str
    path: Path
    data: bytes
    read: Callable[[], Any]
    content: Any
    may_load: bool = True


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder: an optimizer that was never trained, and its settings."""
    directory = tmp_path_factory.mktemp("run")
    optimizer = lo.GRUOptimizer(2, key=jr.key(0), input_scale=0.5)
    settings = {
        "task": storage.describe(lo.LinearRegression(dim=3)),
        "optimizer": storage.describe(optimizer),
        "training": dataclasses.asdict(lo.MetaTraining()),
        "seed": 7,
        "versions": storage.versions(),
    }
    storage.save_json(directory / storage.SETTINGS, settings)
    saved.save_optimizer(directory, optimizer)
    return directory


def cases(run: Path, folder: Path, dice: random.Random) -> Iterator[Case]:
    """All damaged files, each to be written before it is read."""
    for name, make in RECORDS.items():
        record, path = make(), folder / f"{name}.npz"
        data = storage.record_bytes(record, {"seed": 0})
        read = functools.partial(storage.load_record, type(record), path)
        for what, (damage, times) in ARCHIVES.items():
            for _ in range(times):
                yield Case(f"{name}, {what}", path, damage(data, dice), read, record)
        for _ in range(8):
            wrong = wrong_field(record, dice)
            yield Case(f"{name}, another field", path, wrong, read, record, may_load=False)
    weights = run / storage.WEIGHTS
    data, held = weights.read_bytes(), saved.load_weights(run)
    for what, (damage, times) in ARCHIVES.items():
        for _ in range(times):
            yield Case(
                f"weights, {what}", weights, damage(data, dice),
                lambda: saved.load_weights(run), held,
            )  # fmt: skip
    settings = run / storage.SETTINGS
    data, known = settings.read_bytes(), Run(run).settings
    for what, (damage, times) in DOCUMENTS.items():
        for _ in range(times):
            yield Case(
                f"settings, {what}", settings, damage(data, dice),
                lambda: Run(run).settings, known,
            )  # fmt: skip


def same(found: Any, content: Any) -> bool:
    if isinstance(content, dict) and not any(isinstance(v, np.ndarray) for v in content.values()):
        return found == content
    try:
        if isinstance(content, dict):
            assert found.keys() == content.keys()
            for name, array in content.items():
                np.testing.assert_array_equal(found[name], array, strict=True)
        else:
            assert_equal(found, content)
    except AssertionError:
        return False
    return True


def judged(case: Case) -> str:
    """Nothing if the damage was met well, or else what went wrong."""
    before = case.path.read_bytes() if case.path.exists() else None
    case.path.write_bytes(case.data)
    try:
        found = case.read()
    except ValueError as error:
        said = str(error)
        one_line = "\n" not in said and len(said) < 600
        return "" if one_line and case.path.name in said else f"{case.what}: said {said!r}"
    except BaseException as error:
        return f"{case.what}: {type(error).__name__}: {str(error)[:100]}"
    finally:
        case.path.unlink()
        if before is not None:
            case.path.write_bytes(before)
    if not case.may_load:
        return f"{case.what}: was read"
    return "" if same(found, case.content) else f"{case.what}: was read as something else"


@pytest.mark.long
def test_every_damaged_file_is_refused_by_name_or_has_its_content(as_user, run, tmp_path):
    every = list(cases(run, tmp_path, random.Random(13)))
    wrong = [said for case in every if (said := judged(case))]
    print(f"damaged files: {len(every)} tried, {len(every) - len(wrong)} good")
    assert not wrong
    assert len(every) >= LEAST_TRIED


def test_settings_of_other_types_are_refused_or_say_the_same(as_user, run):
    """Entries without a checksum, as older folders have: whatever is read can be used."""
    path, dice = run / storage.SETTINGS, random.Random(5)
    data = path.read_bytes()
    tried = refused = 0
    for _ in range(60):
        path.write_bytes(wrong_leaf(data, dice))
        tried += 1
        try:
            found = Run(run)
            lo.load(run)
        except ValueError as error:
            refused += "\n" not in str(error)
            continue
        assert isinstance(found.title, str)
        assert isinstance(found.settings["task"], dict)
    path.write_bytes(data)
    print(f"settings with one entry changed: {tried} tried, {tried} good, {refused} refused")
    assert refused > 20


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (made.evaluation, {"names": ("learned", "adam")}),
        (made.interventions, {"mechanisms": ("momentum",)}),
        (made.history, {"selected": 4}),
        (lambda: made.tuning("adam"), {"parameter_names": ("learning_rate",)}),
        (made.history, {"outcome": 3}),
    ],
)
def test_records_whose_parts_do_not_fit_each_other_are_refused(as_user, tmp_path, make, changed):
    """Sound files, with their checksum, of what no run measures."""
    record = make()
    wrong = object.__new__(type(record))
    for field in dataclasses.fields(record):
        value = changed.get(field.name, getattr(record, field.name))
        object.__setattr__(wrong, field.name, value)
    storage.save_record(tmp_path / "x.npz", wrong)
    with pytest.raises(ValueError, match=r"x\.npz` does not hold a sound"):
        storage.load_record(type(record), tmp_path / "x.npz")


def test_a_mixture_of_two_runs_is_refused(run, tmp_path):
    """Sound files that do not belong together: the scales stand in the settings alone."""
    other = tmp_path / "other"
    settings = storage.load_json(run / storage.SETTINGS)
    settings["optimizer"]["input_scale"] = 2.0
    storage.save_json(other / storage.SETTINGS, settings)
    (other / storage.WEIGHTS).write_bytes((run / storage.WEIGHTS).read_bytes())
    with pytest.raises(ValueError, match=r"weights of another optimizer .* \(different: input_sc"):
        lo.load(other)
    assert lo.load(run).initial_state().shape == (2,)
