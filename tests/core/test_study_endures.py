"""A study that is killed at any moment goes on where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analyses.core.store import Store
from tests import tiny
from tests.conftest import ROOT

# One process imports everything and forks a child for every attempt. A child writes down each cell that it begins to
# compute although it lies in the store.
SCRIPT = """
import json, os, random, signal, sys, time
import torch
import analyses.core.running.shards as shards
import analyses.core.running.run, analyses.core.running.live
from analyses.core.running.study.study import study
from analyses.core.store import Store
from probe import Prompts

run, items, root, kills, seed = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
execute, again = shards.execute, open(f"{root}/again", "a", buffering=1)

def watched(call, pool):
    address = call.analysis.name, call.key
    if STORE.has(*address) or STORE.shards.has(*address):
        again.write(f"{address}\\n")
    return execute(call, pool)

def asked(place):
    global STORE
    STORE = Store.at(place)
    torch.set_num_threads(1)
    shards.execute = watched
    prompts = Prompts.read(items).seen("a")
    own = {"cross_patching": {"draws": 100}, "gains": {"draws": 100}}
    done = study(run, prompts=prompts, store=STORE, options={"max_new_tokens": 2, "batch_size": 8}, own=own)
    with open(f"{place}/claims.json", "w") as file:
        file.write(done.claims.to_json(orient="records"))

def child(place):
    pid = os.fork()
    if pid == 0:
        try:
            asked(place)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return pid

def cells(place):
    store = Store.at(place)
    return {str(a) for s in (store, store.shards) for a in s.addresses()}

began = time.monotonic()
assert os.waitpid(child(f"{root}/whole"), 0)[1] == 0
took, rng, told = time.monotonic() - began, random.Random(seed), []
for _ in range(kills):
    before, pid = cells(f"{root}/killed"), child(f"{root}/killed")
    time.sleep(rng.uniform(0, 0.6 * took))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    after = cells(f"{root}/killed")
    told.append([len(before), len(after), len(before - after)])
assert os.waitpid(child(f"{root}/killed"), 0)[1] == 0
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three checkpoints and eight items."""
    made = tmp_path_factory.mktemp("endures")
    tiny.series(made / "run")
    rows = [{"id": f"q{i}", "prompt": f"what is {i} plus 7 ?", "answer": f"ans {i}", "group": "ab"[i % 2]}
            for i in range(8)]  # fmt: skip
    (made / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return made


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.verify)])
def test_killed_at_random_moments_it_loses_nothing_and_computes_nothing_again(
    kills: int, folder: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SCRIPT, folder / "run", folder / "items.jsonl", tmp_path, str(kills), "7"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == kills and all(lost == 0 for *_, lost in told)
    assert (tmp_path / "again").read_text() == ""
    one, other = (json.loads((tmp_path / name / "claims.json").read_text()) for name in ("whole", "killed"))
    assert one == other
    addresses = [sorted(Store(tmp_path / name).addresses()) for name in ("whole", "killed")]
    assert addresses[0] == addresses[1]
