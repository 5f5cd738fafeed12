"""The tree of token prefixes of each sampling group: which responses share a prefix, and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.credit import _log

if TYPE_CHECKING:
    from probe import Rollouts


def edges(rows: pd.DataFrame, ids: pd.DataFrame, reward: np.ndarray) -> pd.DataFrame:
    """One row per response and token whose prefix other responses of its sampling group share.

    Columns: response, pos (of the token), n_before (responses through the prefix before it), n_after (with it),
    value_before and value_after (mean reward of those), n_children (distinct next tokens after the prefix).

    Args:
        rows: responses with `cell`, the number of their sampling group.
        ids: every token of every response (`response`, `pos`, `response_token_ids`), in order.
        reward: one number per response.

    A token after which nobody else goes on changes no value any more, so each response leaves the walk there.
    """
    token = ids["response_token_ids"].to_numpy(np.int64)
    count = np.bincount(ids["response"].to_numpy(), minlength=len(rows))
    begin = np.cumsum(count) - count
    node = rows["cell"].to_numpy(np.int64).copy()
    wide = int(token.max(initial=0)) + 1
    through, value = _of_nodes(node, reward)
    alive = np.flatnonzero((count > 0) & (through > 1))
    found: list[pd.DataFrame] = []
    pos = 0
    while len(alive):
        step = token[begin[alive] + pos]
        _, child = np.unique(node[alive] * wide + step, return_inverse=True)
        after, worth = _of_nodes(child, reward[alive])
        children = _distinct(node[alive], child)
        part = {
            "response": alive, "pos": np.full(len(alive), pos), "n_before": through[alive], "n_after": after,
            "value_before": value[alive], "value_after": worth, "n_children": children,
        }  # fmt: skip
        found.append(pd.DataFrame(part))
        node[alive], through[alive], value[alive] = child, after, worth
        pos += 1
        alive = alive[(after > 1) & (count[alive] > pos)]
    if not found:
        names = ["response", "pos", "n_before", "n_after", "value_before", "value_after", "n_children"]
        return pd.DataFrame({n: np.zeros(0) for n in names})
    return pd.concat(found, ignore_index=True).sort_values(["response", "pos"], ignore_index=True)


def _of_nodes(node: np.ndarray, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many responses stand at each one's node, and their mean reward."""
    n = np.bincount(node)
    return n[node], (np.bincount(node, reward) / np.maximum(n, 1))[node]


def _distinct(parent: np.ndarray, child: np.ndarray) -> np.ndarray:
    """Number of different children of each one's parent."""
    _, first = np.unique(child, return_index=True)  # a child has one parent
    return np.bincount(parent[first])[parent]


def all_ids(rollouts: Rollouts) -> pd.DataFrame:
    """Every token id of every response, also of tools: a prefix is what the policy stood after."""
    return _log.tokens(rollouts, ["response_token_ids"], masked=False)
