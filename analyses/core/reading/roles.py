"""Which items training may have shown: a column or an option, never read out of a group's name.

Groups that were made from the outcomes of the same checkpoints (wrong before, right after) cannot answer what changed:
picking those items is the finding. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from probe.errors import InputError
from probe.items import OUTCOMES

SEEN, UNSEEN = "seen", "unseen"
OUTCOME_GROUPS = frozenset({"leak", "stable", "unlabelled"})  # what `labels` calls its groups, and nothing else may
NEEDS_ROLES = "a column `seen` (true or false) in the prompt file, or the options naming seen and unseen groups"
NEEDS_FRESH = "groups fixed before training, or labels of other responses and the contrast on matched items"


def roles(table: pd.DataFrame, seen: Sequence[str] = (), unseen: Sequence[str] = ()) -> pd.Series:
    """`seen`, `unseen` or None for every row: by the named groups, else by the column `seen`.

    Args:
        table: rows with `group`, and `seen` where the prompts said so.
        seen: groups that training may have shown.
        unseen: groups that it has not.

    Raises:
        InputError: a group that the table does not have, or one named as both.
    """
    groups = table["group"].astype(str)
    known = sorted(groups.unique())
    named = f"named as seen: {list(seen)}, as unseen: {list(unseen)}; the groups are {known}"
    if unknown := sorted((set(seen) | set(unseen)) - set(known)):
        raise InputError(f"there are no groups {unknown} ({named}); name some of these")
    if both := sorted(set(seen) & set(unseen)):
        raise InputError(f"{both} cannot be both seen and unseen ({named}); name each group once")
    said = pd.Series(None, table.index, dtype=object)
    if seen or unseen:
        said[groups.isin(seen)], said[groups.isin(unseen)] = SEEN, UNSEEN
    elif "seen" in table:
        said[:] = [_told(value) for value in table["seen"]]
    return said


def _told(value: object) -> str | None:
    """True, 1 and 1.0 are one word: a column of truths comes back from a file as any of them."""
    return SEEN if value == 1 else UNSEEN if value == 0 else None


def from_outcomes(table: pd.DataFrame) -> bool:
    """True where the groups were made from outcomes: they say so, or carry the names that only `labels` gives."""
    if "group_from" in table and (table["group_from"] == OUTCOMES).any():
        return True
    return bool(set(table["group"].astype(str)) & OUTCOME_GROUPS)
