"""Rollouts that were written twice: shards copied, steps logged again by a run that was resumed.

Two responses of one prompt may be equal in every logged number without being one response (a policy that has grown
certain says the same eight times), so single rows are never compared: files are, and whole steps.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

DISTINCT = 4  # different responses beyond one per group that must all be doubled before a step counts as logged twice


def repeated(rows: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Which rows are second copies, and notes.

    Args:
        rows: step, group_uid, digest (of the whole row), file (number of the file a row is in).

    A step that two files hold with the same responses is one step; so is one all of whose responses occur k times,
    where they differ enough within groups that chance cannot have doubled them, or where its groups are k times as
    large as those of every other step.
    """
    drop = np.zeros(len(rows), bool)
    notes: list[str] = []
    _across_files(rows, drop, notes)
    _within(rows, drop, notes)
    return drop, notes


def _across_files(rows: pd.DataFrame, drop: np.ndarray, notes: list[str]) -> None:
    seen: set[tuple[int, bytes]] = set()
    copies: dict[int, int] = {}
    steps, files = rows["step"].to_numpy(), rows["file"].to_numpy()
    for step, number in sorted(set(zip(steps.tolist(), files.tolist(), strict=True))):
        at = np.flatnonzero((steps == step) & (files == number))
        content = (step, np.sort(rows["digest"].to_numpy(np.uint64)[at]).tobytes())
        if content in seen:
            drop[at] = True
            copies[step] = copies.get(step, 0) + len(at)
        seen.add(content)
    if copies:
        named = ", ".join(map(str, sorted(copies)[:8]))
        notes.append(
            f"{sum(copies.values())} response(s) of step(s) {named} stand in two files with the same content: "
            "counted once"
        )


def _within(rows: pd.DataFrame, drop: np.ndarray, notes: list[str]) -> None:
    left = rows[~drop]
    sizes = left.groupby(["step", "group_uid"]).size().reset_index(name="size")
    for step in sorted(left["step"].unique().tolist()):
        part = left[left["step"] == step]
        counts = part.groupby("digest").size()
        times = int(np.gcd.reduce(counts.to_numpy()))
        if times < 2:
            continue
        spread = int((part.groupby("group_uid")["digest"].nunique() - 1).sum())
        own, others = sizes.loc[sizes["step"] == step, "size"], sizes.loc[sizes["step"] != step, "size"]
        larger = len(others) > 0 and others.nunique() == 1 and bool((own == times * others.max()).all())
        if spread >= DISTINCT or larger:
            number = part.groupby("digest").cumcount().to_numpy()
            keep = number < part["digest"].map(counts).to_numpy() // times
            drop[part.index.to_numpy()[~keep]] = True
            notes.append(f"every response of step {step} is logged {times} times: counted once")
        elif spread:
            notes.append(f"every response of step {step} occurs {times} times or a multiple of it: logged again?")
