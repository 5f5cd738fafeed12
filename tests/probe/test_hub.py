"""Repositories and revisions through the Hub's own client, against a server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.checkpoints import Checkpoint, discover
from probe.errors import InputError
from tests.probe.hub_server import serving

PROGRAM = """
import json, sys
from probe.checkpoints import Checkpoint, discover
from probe.errors import InputError
out = {}
for text in sys.argv[1:]:
    try:
        out[text] = [[c.label, c.step, c.stage, c.fingerprint(), c.tokenizer_fingerprint()] for c in discover(text)]
    except InputError as error:
        out[text] = str(error)
assert "torch" not in sys.modules
print(json.dumps(out))
"""


def ask(endpoint: str, home: Path, *texts: str, offline: bool = False) -> dict[str, object]:
    """What `discover` finds, in a process of its own (the client reads its settings when imported)."""
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "PROBE_CACHE": str(home / "probe"),
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM, *texts], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_revisions_are_fetched_once_and_used_offline(folder_of: Callable[..., Path], tmp_path: Path) -> None:
    first, last = folder_of("llama"), folder_of("llama", 1)
    repos = {"lab/toy": {"main": last, "step0": first, "step1000": last, "other": first}}
    with serving(repos) as (endpoint, log):
        found = ask(
            endpoint, tmp_path, "lab/toy@step*", "lab/toy@step0", "lab/toy", "lab/none", "lab/toy@step7", "lab/toy@x*"
        )
        requests = len(log)
        again = ask(endpoint, tmp_path, "lab/toy@step0")
        assert not any("safetensors" in line and line.startswith("GET") for line in log[requests:])
    rows = found["lab/toy@step*"]
    assert isinstance(rows, list)
    assert [r[:3] for r in rows] == [["toy@step0", 0, "toy"], ["toy@step1000", 1000, "toy"]]
    assert [r[3] for r in rows] == [Checkpoint(str(f)).fingerprint() for f in (first, last)]
    assert [r[4] for r in rows] == [Checkpoint(str(f)).tokenizer_fingerprint() for f in (first, last)]
    assert found["lab/toy"][0][3] == Checkpoint(str(last)).fingerprint()  # type: ignore[index]
    assert "no such model" in str(found["lab/none"])
    assert "no such model or revision" in str(found["lab/toy@step7"])
    assert "it has main, step0" in str(found["lab/toy@x*"])
    assert again["lab/toy@step0"] == found["lab/toy@step0"]
    # The server is gone: what was fetched is still there, the rest is an error that says so.
    offline = ask("http://127.0.0.1:9", tmp_path, "lab/toy@step0", "lab/toy@other", offline=True)
    assert offline["lab/toy@step0"] == found["lab/toy@step0"]
    assert "fetch it once while online" in str(offline["lab/toy@other"])
    unreachable = ask("http://127.0.0.1:9", tmp_path, "lab/toy@other", "lab/toy@step*")
    assert "cannot be reached" in str(unreachable["lab/toy@other"])
    assert "cannot be reached" in str(unreachable["lab/toy@step*"])


def test_offline_without_a_copy(tmp_path: Path) -> None:
    (found,) = discover("nobody/nothing@step5")
    assert found == Checkpoint("nobody/nothing", revision="step5", step=5)
    assert found.label == "nothing@step5"
    with pytest.raises(InputError, match="nobody/nothing@step5"):
        _ = found.folder
