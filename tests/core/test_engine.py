"""Sweeps on a Ray cluster: the same numbers, whoever dies on the way."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import psutil
import pytest
import xarray as xr
from safetensors.torch import load_file, save_file

from analyses import Store, study, sweep
from analyses.core.running import workers as module
from analyses.core.running.shards import SHARD_ITEMS
from analyses.core.running.workers import Engine
from analyses.core.store.store import StoreError
from probe.errors import InputError, ProbeError
from tests import tiny
from tests.conftest import ROOT
from tests.processes import started, until

STEPS = (0, 10, 20, 30)
DRIVER = """
import sys
from pathlib import Path
from analyses import Store, sweep
from analyses.core.running.workers import Engine
folder = Path(sys.argv[1])
sweep("perplexity", checkpoints=folder / "series", prompts=folder / "items.jsonl", store=Store(folder / "killed"),
      engine=Engine("ray", 2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A series of tiny checkpoints and a prompt file."""
    made = tmp_path_factory.mktemp("engine")
    tiny.series(made / "series", steps=STEPS)
    lines = [f'{{"id": "q{n}", "prompt": "What is {n} + 1?", "answer": " {n + 1}"}}' for n in range(6)]
    (made / "items.jsonl").write_text("\n".join(lines))
    return made


def swept(folder: Path, store: Store | None, **options):
    given = {"checkpoints": folder / "series", "prompts": folder / "items.jsonl", "store": store}
    return sweep("perplexity", **given, **options)


def shards(store: Store) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (store.root / ".shards").glob("perplexity/*/record.json")}


def workers() -> list[int]:
    """Process ids of the Ray workers below this process, in a cluster started by a sweep or by `crew`."""
    found: list[int] = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::Worker"):
                found.append(child.pid)
    return found


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    return swept(folder, Store(tmp_path_factory.mktemp("alone")))


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory):
    """Two workers of one cluster for the tests here: starting a cluster takes longer than what most of them ask."""
    home = tmp_path_factory.mktemp("crew")
    with ExitStack() as ended:
        yield Engine("ray", 2, standing(home, {"PYTHONPATH": str(ROOT)}, ended))


@pytest.fixture(scope="module")
def one(crew: Engine) -> Engine:
    """One of them: what starts in a worker is nearly all the time these tests take."""
    return replace(crew, workers=1)


def same(a, b) -> None:
    pd.testing.assert_frame_equal(a.table, b.table, atol=1e-6)
    xr.testing.assert_allclose(a.data, b.data, atol=1e-6)


def test_two_workers_give_what_one_process_gives(folder: Path, alone, tmp_path: Path) -> None:
    store = Store(tmp_path)
    found = swept(folder, store, engine=Engine("ray", 2))
    same(found, alone)
    assert found.key == alone.key
    assert found.record["engine"] == {"name": "ray", "workers": 2, "address": None}
    assert alone.record["engine"] == {"name": "local"}
    assert len(shards(store)) == len(STEPS)
    assert not store.running()


def test_a_study_by_two_workers_is_that_of_one_process(tmp_path: Path, crew: Engine) -> None:
    run, items = tiny.series(tmp_path / "run", steps=(0, 10)), tiny.twelve_items()
    given: dict[str, object] = {"prompts": items, "questions": ["ship"],
                             "options": {"max_new_tokens": 2, "batch_size": 4}}  # fmt: skip
    alone = study(run, store=Store(tmp_path / "alone"), **given)
    workers = study(run, store=Store(tmp_path / "workers"), engine=crew, **given)
    pd.testing.assert_frame_equal(workers.claims, alone.claims, atol=1e-6)
    mine, theirs = alone["run"].results, workers["run"].results
    assert list(mine) == list(theirs) and "over_memorization" in mine
    for name, result in theirs.items():
        xr.testing.assert_allclose(result.data, mine[name].data, atol=1e-5)
        if result.record.get("members"):
            assert result.record["engine"]["name"] == "ray", name
    assert not workers["run"].failed and not Store(tmp_path / "workers").running()


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.verify)])
def test_killed_workers_lose_nothing_and_repeat_nothing_finished(
    folder: Path, alone, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch, crew: Engine
) -> None:
    store, seen, left = Store(tmp_path), {}, [kills]
    ended = threading.Event()

    def hunt() -> None:
        rng = random.Random(0)
        while not ended.wait(rng.uniform(0.5, 2.0)) and left[0]:
            seen.update({p: t for p, t in shards(store).items() if p not in seen})
            for pid in rng.sample(found := workers(), min(1, len(found))):
                os.kill(pid, signal.SIGKILL)
                left[0] -= 1

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        found = swept(folder, store, engine=crew)
    finally:
        ended.set()
        hunter.join()
    same(found, alone)
    assert left[0] < kills  # somebody was hit
    assert {p: t for p, t in shards(store).items() if p in seen} == seen  # what was there was not written again


def test_a_killed_driver_resumes(folder: Path, alone, one: Engine) -> None:
    quiet = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    store = Store(folder / "killed")
    command = [sys.executable, "-c", DRIVER, str(folder)]
    with started(command, env=quiet, stderr=subprocess.DEVNULL) as driver:
        until(lambda: shards(store), driver)
        driver.kill()
    before = shards(store)
    same(swept(folder, store, engine=one), alone)
    assert {p: t for p, t in shards(store).items() if p in before} == before


def test_what_cannot_run_says_why(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="give one"):
        swept(folder, None, engine=Engine("ray"))
    with pytest.raises(ProbeError, match=r"no Ray cluster answers at 127\.0\.0\.1:1"):
        swept(folder, Store(tmp_path), engine=Engine("ray", address="127.0.0.1:1"))


@pytest.fixture(scope="module")
def other_code(tmp_path_factory: pytest.TempPathFactory):
    """Addresses of clusters whose Python finds another version of the package, or one without this engine."""
    with ExitStack() as ended:

        def cluster(change) -> str:
            home = tmp_path_factory.mktemp("other")
            for name in ("probe", "analyses", "apps"):
                shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
            change(home / "analyses" / "core" / "running" / "workers.py")
            return standing(home, {"PYTHONPATH": str(home)}, ended)

        yield cluster


def standing(home: Path, environment: dict[str, str], ended: ExitStack) -> str:
    """Address of a cluster that lasts as long as `ended`."""
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_TMPDIR": str(home), **environment}
    while (address := head(home, {**os.environ, **module.PATIENT, **ours}, ended)) is None:
        pass
    return address


def head(home: Path, environment: dict[str, str], ended: ExitStack) -> str | None:
    """Address of a cluster that is there; None where Ray gave its node up after its 30 s, as on a busy machine."""
    port, log = free_port(), home / "ray.log"
    # Names of sockets are short, and pytest's folders lie deep.
    folder = ended.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
    words = [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *words]
    with log.open("w") as out:
        ray = ended.enter_context(started(command, env=environment, cwd=home, stdout=out, stderr=subprocess.STDOUT))
    until(lambda: "Ray runtime started" in log.read_text() or ray.poll() is not None)
    assert ray.poll() is None or "timed out during startup" in log.read_text(), log.read_text()
    return f"127.0.0.1:{port}" if ray.poll() is None else None


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


REFUSED = """
import sys
from pathlib import Path
from analyses import Store, sweep
from analyses.core.running.workers import Engine
folder, address = Path(sys.argv[1]), sys.argv[2]
try:
    sweep("perplexity", checkpoints=folder / "series", prompts=folder / "items.jsonl", store=Store(folder / "refused"),
          engine=Engine("ray", 1, address))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file.write_text(file.read_text() + "\n# a later version\n"), r"posttrain-probe \S+ \(code \w+\)"),
        (lambda file: file.unlink(), "no posttrain-probe with this engine"),
    ],
    ids=["changed", "older"],
)
def test_workers_with_other_code_are_refused_with_both_versions(folder: Path, other_code, change, told) -> None:
    """A cluster of its own, whose workers import another copy of the package."""
    address = other_code(change)
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(folder), address], cwd=folder, capture_output=True, text=True, check=True
    )
    own = re.escape(module.code_identity())
    refusal = rf"InputError a worker has {told}.*; the driver has {own}\. Install the same on both"
    assert re.match(refusal, done.stdout), done.stdout + done.stderr
    assert not shards(Store(folder / "refused"))


def test_no_room_for_a_worker_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one: Engine
) -> None:
    monkeypatch.setattr(module, "PLACING", 2.0)
    monkeypatch.setattr("analyses.core.running.sweep._weights", lambda *_: 1e12)
    with pytest.raises(ProbeError, match=r"no worker started in 2 s: each needs .*'memory': 1000000000000\b"):
        swept(folder, Store(tmp_path), engine=one)


def test_a_worker_that_stands_still_holds_nobody_up(
    folder: Path, alone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crew: Engine
) -> None:
    """One of two workers is stopped (not killed) in the middle; the other one takes its task too."""
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    stopped, ended = list[int](), threading.Event()

    def stop_one() -> None:
        until(lambda: shards(Store(tmp_path)) or ended.is_set())
        stopped.extend(workers()[:1])
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    hunter = threading.Thread(target=stop_one)
    hunter.start()
    try:
        found = swept(folder, Store(tmp_path), engine=crew)
    finally:
        ended.set()
        hunter.join()
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # the cluster is needed on
    assert stopped
    same(found, alone)


def test_a_checkpoint_that_a_worker_cannot_load_is_told_at_the_end(folder: Path, tmp_path: Path, one: Engine) -> None:
    series = shutil.copytree(folder / "series", tmp_path / "series")
    broken = load_file(series / "checkpoint-10" / "model.safetensors")
    broken["model.norm.weight"] *= float("nan")
    save_file(broken, series / "checkpoint-10" / "model.safetensors", {"format": "pt"})
    given = {"checkpoints": series, "prompts": folder / "items.jsonl"}
    found = sweep("perplexity", **given, store=Store(tmp_path / "results"), engine=one)
    alone = sweep("perplexity", **given)
    same(found, alone)
    assert sorted(set(found.table["step"])) == [0, 20, 30]
    assert [row["step"] for row in found.record["failed"]] == [row["step"] for row in alone.record["failed"]] == [10]
    assert "not finite" in found.record["failed"][0]["error"]


def test_shards_of_items_go_to_workers_and_are_joined(folder: Path, tmp_path: Path, crew: Engine) -> None:
    """One checkpoint, more items than a shard holds: both workers have something to do."""
    lines = [f'{{"id": "q{n}", "prompt": "{n} + 1?", "answer": " {n + 1}"}}' for n in range(SHARD_ITEMS + 9)]
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    given = {"checkpoints": [str(folder / "series" / "checkpoint-10")], "prompts": tmp_path / "many.jsonl"}
    store = Store(tmp_path / "results")
    found = sweep("perplexity", **given, store=store, engine=crew)
    same(found, sweep("perplexity", **given))
    assert len(shards(store)) == 3, "two shards and what was made of them"


def test_a_full_disk_is_told_as_it_is_and_what_is_finished_stays(
    folder: Path, alone, tmp_path: Path, one: Engine
) -> None:
    """A file system of one megabyte, nearly full: a worker's member does not fit."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        filler = small / "filler"
        filler.write_bytes(b"0" * (900 * 1024))
        with pytest.raises(StoreError, match="the disk is full"):
            swept(folder, Store(small), engine=one)
        filler.unlink()
        same(swept(folder, Store(small), engine=one), alone)
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def test_an_unreadable_shard_is_computed_again(folder: Path, alone, tmp_path: Path, one: Engine) -> None:
    store = Store(tmp_path)
    swept(folder, store, engine=one)
    (result,) = store.records()
    store.drop("perplexity", result["key"])
    broken = min(shards(store)).parent / "table.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    others = {p: t for p, t in shards(store).items() if p.parent != broken.parent}
    same(swept(folder, store, engine=one), alone)
    assert {p: t for p, t in shards(store).items() if p in others} == others


def test_a_store_without_write_rights_is_refused(folder: Path, one: Engine) -> None:
    with pytest.raises(StoreError, match=r"cannot write /proc/.*"):
        swept(folder, Store(Path("/proc/results")), engine=one)


def test_a_bad_input_found_by_a_worker_is_told_as_it_is(folder: Path, tmp_path: Path, one: Engine) -> None:
    (folder / "long.jsonl").write_text(f'{{"id": "long", "prompt": "{"word " * 5000}", "answer": " 1"}}')
    with pytest.raises(InputError, match="long"):
        sweep(
            "perplexity",
            checkpoints=folder / "series",
            prompts=folder / "long.jsonl",
            store=Store(tmp_path),
            engine=one,
        )
