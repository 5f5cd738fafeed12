"""Ten tasks in a notebook, side by side: how many lines each library takes, and whether its values are ours.

`python -m benchmarks.lines` writes benchmarks/LINES.md. Each script runs in a process of its own on two saved tiny
models (Llama with grouped queries, a tokenizer that puts no BOS); lines are those of a function's body, counted in its
syntax tree, imports and loading left out for everybody. Values are compared with ours, which `make test` holds to plain
transformers, text by text without padding. nnterp and steering-vectors run in environments of their own. A task that is
empty was not written for that library. What a function calls of its own script is not counted.
TransformerLens puts BOS before a text by default, which this tokenizer does not: its values are of another text.
Padding: directions (nnsight, nnterp) and generation under edits read texts of unequal length in one batch. The last row
is the last state of each of two such texts, all without BOS: TransformerLens pads on the right, so that the last column
of the shorter one is padding, and nothing says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peer import Unavailable, environment
from benchmarks.line_scripts.given import CHECKS, TASKS

SCRIPTS = Path(__file__).parent / "line_scripts"
PAGE = Path(__file__).with_name("LINES.md")
OURS = "posttrain-probe"
LIBRARIES: dict[str, tuple[str, tuple[str, ...]]] = {  # script, packages of an environment of its own (else ours)
    OURS: ("ours", ()),
    "TransformerLens": ("with_transformer_lens", ()),
    "nnsight": ("with_nnsight", ()),
    "nnterp": ("with_nnterp", ("nnterp==1.3.0", "nnsight==0.7.0")),  # it imports what 0.8 has no more
    "steering-vectors": ("with_steering_vectors", ("steering-vectors==0.12.2",)),
}
CHOOSES = ("nnterp", "steering-vectors")  # their own versions of nnsight and transformers, not ours
ALIKE = 1e-3

Told = dict[str, dict[str, Any]]


def measure() -> list[dict[str, Any]]:
    """Write the page; a row for each library: in how many of the tasks ours takes more lines."""
    found = told()
    PAGE.write_text(table(found))
    ours = found[OURS]
    assert isinstance(ours, dict), ours
    return [_row(library, one, ours) for library, one in found.items() if library != OURS]


def _row(library: str, one: Told | str, ours: Told) -> dict[str, Any]:
    if isinstance(one, str):
        return {"name": f"{library}: not measured", "note": one}
    tasks = [task for task in one if task in TASKS]
    longer = [task for task in tasks if ours[task]["lines"] > one[task]["lines"]]
    other = [t.replace("_", " ") for t in tasks if not agrees(one[t].get("value"), ours[t]["value"])]
    return {
        "name": f"{library}: tasks that take more lines here, of {len(tasks)}",
        "ratio": len(longer),
        "bound": "<= 0",
        "holds": not longer,
        "note": f"other values: {', '.join(other)}" if other else "the same values",
    }


def told() -> dict[str, Told | str]:
    """Library -> task -> lines and value or error; or, in words, why it could not be had."""
    from tests import tiny

    with tempfile.TemporaryDirectory() as name:
        folders = [str(tiny.save(Path(name) / str(seed), "llama", seed=seed)) for seed in (0, 1)]
        for folder in folders:  # a class that older transformers know too
            file = Path(folder) / "tokenizer_config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))
        return {library: _told(library, folders) for library in LIBRARIES}


def _told(library: str, folders: list[str]) -> Told | str:
    script, packages = LIBRARIES[library]
    versions = "" if library in CHOOSES else "constraints.txt"
    try:
        python = environment(library, *packages, versions=versions) if packages else Path(sys.executable)
    except Unavailable as error:
        return str(error)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if packages:
        quiet.pop("PYTHONPATH", None)
    command = [str(python), str(SCRIPTS / f"{script}.py"), *folders]
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        return f"its script ended: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def agrees(value: Any, ours: Any) -> bool:
    """Whether two values are of one shape and alike; ids must be equal."""
    try:
        a, b = np.asarray(value, dtype=float), np.asarray(ours, dtype=float)
    except ValueError:  # rows of unequal length
        return value == ours
    return a.shape == b.shape and bool(np.allclose(a, b, atol=ALIKE, rtol=ALIKE))


def table(found: dict[str, Told | str]) -> str:
    """The page: lines by task and library, what differs, what failed."""
    ours = found[OURS]
    assert isinstance(ours, dict), ours
    notes = [f"- {library}: not measured: {told}" for library, told in found.items() if isinstance(told, str)]
    have = {library: told for library, told in found.items() if isinstance(told, dict)}
    rows = [f"| task | {' | '.join(have)} |", f"| --- |{' --- |' * len(have)}"]
    for task in (*TASKS, *CHECKS):
        cells: list[str] = []
        for library, told in have.items():
            one = told.get(task)
            if one is None:
                cells.append("")
            elif "error" in one:
                cells.append(f"{one['lines']} (fails)")
                notes.append(f"- {library}, {task}: {one['error']}")
            else:
                cells.append(f"{one['lines']}{'' if agrees(one['value'], ours[task]['value']) else ' (differs)'}")
        rows.append(f"| {task.replace('_', ' ')} | {' | '.join(cells)} |")
    doc = (__doc__ or "").partition("\n\n")[2].strip()
    return "\n".join(["# Lines of code for ten tasks", "", doc, "", *rows, "", *notes]).rstrip() + "\n"


if __name__ == "__main__":
    measure()
