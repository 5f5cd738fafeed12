"""AReaL's dumps of rollouts: `<version>/<query>.txt`, a line of numbers, prompt and response of each sample in colour.

After AReaL's own source (`RLVRWorkflow`, `dump_dir`). A version counts the updates of the weights, which is the step;
texts are decoded with their special tokens; the prompt's id is the name of the file.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from probe.errors import InputError

_SHOWN = r"\x1b\[33m\x1b\[2m(.*?)\x1b\[0m\n"
SAMPLE = re.compile(
    rf"idx: (\d+) / \d+, seqlen: \d+, reward is (.*?)\.\nprompt is \n{_SHOWN}sequence is: \n{_SHOWN}", re.DOTALL
)


def dumps_in(folder: Path) -> list[Path]:
    """The dumps of a folder of versions (or of one version); none where it holds anything else."""
    versions = [folder] if folder.name.isdigit() else [f for f in folder.glob("*") if f.name.isdigit()]
    return [f for version in versions for f in sorted(version.glob("*.txt"))]


def areal_rows(file: Path) -> pa.Table:
    """The samples of one prompt under one version of the weights.

    Raises:
        InputError: a file that is no such dump, cut short, or not in its version's folder.
    """
    text = file.read_text(encoding="utf-8", errors="replace")
    found = list(SAMPLE.finditer(text))
    if sum(len(m[0]) for m in found) != len(text) or not found:
        raise InputError(f"{file}: not a dump of AReaL, or cut short after {len(found)} samples; copy it again")
    if not file.parent.name.isdigit():
        raise InputError(f"{file}: expected in a folder named by the version of the weights, as AReaL wrote it")
    step = int(file.parent.name)
    return pa.Table.from_pylist(
        [
            {
                "step": step, "prompt_id": file.stem, "group_uid": f"{step}-{file.stem}", "prompt_text": m[3],
                "response_text": m[4], "reward": _number(m[2], file), "log_writer": "areal",
            }
            for m in found
        ]
    )  # fmt: skip


def _number(text: str, file: Path) -> float:
    """A reward as Python prints it, of a tensor too."""
    inside = re.fullmatch(r"(?:tensor\()?\[?(-?[\d.einfa+-]+|True|False)\]?\)?", text.strip())
    try:
        return float({"True": 1, "False": 0}.get(inside[1], inside[1]) if inside else text)
    except ValueError as error:
        raise InputError(f"{file}: reward {text!r} is no number") from error
