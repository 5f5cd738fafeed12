"""`probe demo`: train the tiny lab if it is not there, then a study of its runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps.command import study
from probe.errors import InputError, ProbeError

ANSWER = r"^(?:think .*; )?ans (\d+)$"  # as the lab's world writes answers
SHARED: Mapping[str, Any] = {"grade": "exact", "pattern": ANSWER, "max_new_tokens": 44, "batch_size": 64}
OWN = ('over_memorization.unparsed="wrong"',)
STUDIES: Sequence[Mapping[str, Any]] = (
    {"runs": ["sft-high", "sft-low"], "prompts": "sft_test.jsonl", "own": OWN},
    {
        "runs": ["grpo-format"],
        "prompts": "prompts.jsonl",
        "answers": "gold_final",
        "groups": ["leaked_true", "leaked_canary", "unseen"],
        "seen": ["leaked_true", "leaked_canary"],
    },
    {
        "runs": ["planted", "planted-early"],
        "prompts": "prompts.jsonl",
        "answers": "gold_final",
        "groups": ["planted", "unseen"],
        "seen": ["planted"],
        "questions": ["memory", "where"],
    },
)
FILE = "study.toml"
CHECKOUT = Path(__file__).resolve().parents[2]
NO_LAB = (
    "the lab is trained from a checkout of the repository, not from the installed package: clone it and run "
    "`make demo`, or name a folder that holds a finished lab with --out"
)


def run_demo(out: Path, results: str | None, seed: int) -> int:
    """Everything the README's first command shows: the exit code of the study.

    Raises:
        InputError: no finished lab in ``out`` and no checkout to train one from.
        ProbeError: the training failed (its own message is above).
    """
    folder = out / f"seed-{seed}"
    _train(out, seed, folder)
    return study.carry_out(studies(folder, results), save=str(folder / FILE))


def studies(folder: Path, results: str | None = None) -> list[dict[str, Any]]:
    """What is asked of the lab in a folder: which items of which run, and how its answers are written."""
    places = {"results": results or str(folder / "results"), "report": str(folder / "report.html")}
    return [
        {
            **one,
            **SHARED,
            **places,
            "runs": [str(folder / run) for run in one["runs"]],
            "prompts": str(folder / one["prompts"]),
        }
        for one in STUDIES
    ]


def _train(out: Path, seed: int, folder: Path) -> None:
    if not (CHECKOUT / "experiments").is_dir():
        if not (folder / "sft_test.jsonl").is_file():
            raise InputError(NO_LAB)
        return
    command = [sys.executable, "-m", "experiments.lab", "--short", "--seed", str(seed), "--out", str(out.resolve())]
    # `experiments` is not installed: -m finds it in the checkout's folder.
    if subprocess.run(command, stdout=sys.stderr, cwd=CHECKOUT, check=False).returncode:
        raise ProbeError("training the lab failed; run the same command again to resume at the stage that failed")
