"""Damaged files of every format: an error in words or a right reading, never a traceback, never a hang.

A whole file is cut, its bytes flipped, its lines repeated, its JSON values replaced by others. A few such files are
read in every run, `PROBE_FUZZ_SECONDS` (1,200) of them in `make verify`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from probe import ProbeError
from tests import whole_files

Whole = dict[str, tuple[Path, whole_files.Read]]
PATIENCE = 120  # seconds for one file
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # HDF5 closing what is broken
FEW = 8  # damaged files of each format in every run
ODD: list[Any] = [
    None, True, 0, -1, 1e308, float("nan"), float("inf"), 2**70, "", " ", "\u0000", "nan", [], {}, [[]], [None],
    {"a": None}, "a" * 3000, "../../etc", -0.5,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_files.written(tmp_path_factory.mktemp("whole"))


def test_the_whole_files_are_read(whole: Whole) -> None:
    for name, (path, read) in whole.items():
        with patient(name):
            read(path)


@pytest.mark.parametrize("seed", range(FEW))
def test_damaged_files_are_refused_in_words_or_read(whole: Whole, seed: int) -> None:
    for name, (path, read) in whole.items():
        if seed < 2 or not name.startswith(("checkpoint", "adapter")):  # loading takes longer
            tried(name, path, read, seed)


@pytest.mark.verify
def test_damaged_files_for_twenty_minutes(whole: Whole) -> None:
    """Files of every format damaged at random, one after the other: no traceback, no hang."""
    end = time.monotonic() + float(os.environ.get("PROBE_FUZZ_SECONDS", "1200"))
    seed = 1000
    while time.monotonic() < end:
        for name, (path, read) in whole.items():
            tried(name, path, read, seed)
        seed += 1


def tried(name: str, path: Path, read: whole_files.Read, seed: int) -> None:
    """One damaged file is read; it is whole again afterwards."""
    kept = path.read_bytes()
    path.write_bytes(damage(kept, random.Random(f"{name} {seed}")))
    said = "read"
    try:
        with patient(f"{name}, seed {seed}"):
            read(path)
    except ProbeError as error:
        said = str(error).strip()
    except Exception as error:
        raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
    finally:
        path.write_bytes(kept)
    assert said, f"{name}, seed {seed}: an error without words"


@contextmanager
def patient(name: str) -> Generator[None]:
    """A reader that takes longer than `PATIENCE` hangs."""

    def rung(*_: object) -> None:
        raise TimeoutError(f"{name}: not read within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, rung)
    left = signal.alarm(PATIENCE)  # of the whole test
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.alarm(left)


def damage(raw: bytes, draw: random.Random) -> bytes:
    """One to three damages."""
    for _ in range(draw.randint(1, 3)):
        raw = draw.choice(DAMAGES)(raw, draw)
    return raw


def cut(raw: bytes, draw: random.Random) -> bytes:
    return raw[: draw.randint(0, len(raw))]


def flipped(raw: bytes, draw: random.Random) -> bytes:
    new = bytearray(raw)
    for _ in range(draw.randint(1, 8)):
        if new:
            new[draw.randrange(len(new))] = draw.randrange(256)
    return bytes(new)


def inserted(raw: bytes, draw: random.Random) -> bytes:
    at = draw.randint(0, len(raw))
    piece = draw.choice([b"\x00", b"\xff\xfe", b"\n", b",", b'"', b"{", b"]", b"\xef\xbb\xbf", b"1e999", raw[:64]])
    return raw[:at] + piece + raw[at:]


def without(raw: bytes, draw: random.Random) -> bytes:
    at = draw.randint(0, len(raw))
    return raw[:at] + raw[at + draw.randint(1, 64) :]


def relined(raw: bytes, draw: random.Random) -> bytes:
    lines = raw.split(b"\n")
    one, two = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one] = lines[two]
    return b"\n".join(lines)


def revalued(raw: bytes, draw: random.Random) -> bytes:
    """A JSON value somewhere replaced by another, or a key dropped; lines of JSON as well as a whole document."""
    try:
        text = raw.decode()
        lines = [text] if _is_json(text) else text.split("\n")
        at = draw.choice([n for n, line in enumerate(lines) if line.strip()])
        value = json.loads(lines[at])
    except (ValueError, IndexError):
        return flipped(raw, draw)
    places = list(_places(value))
    if not places:
        return json.dumps(draw.choice(ODD)).encode()
    put, key = draw.choice(places)
    if isinstance(key, str) and draw.random() < 0.2:
        put.pop(key)
    else:
        put[key] = draw.choice(ODD)
    lines[at] = json.dumps(value)
    return "\n".join(lines).encode()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inside):
        yield value, key
        yield from _places(one)


DAMAGES: list[Callable[[bytes, random.Random], bytes]] = [
    cut, flipped, inserted, without, relined, revalued, revalued, revalued
]  # fmt: skip
