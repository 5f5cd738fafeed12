"""Do two languages share states? Sentences that say the same in both against others, layer by layer, and probes moved.

Definition: a problem is asked in several languages (`id` and `variant`). Of every state (0 = embedding, l+1 = output of
block l) each language's mean over the problems is taken off first. parallel = cosine of one problem's states in two
languages, other = mean cosine of its state in one and every other problem's in the other, excess = their difference;
means over pairs of languages. Probe of the two groups (logistic regression, problems in folds): right_within = share of
held-out problems told right in the language that the probe was fitted in, right_transfer = in every other language;
loss = right_within - right_transfer. NaN where there are not two groups.

Units: cosines; shares.

Source: multilingual studies of BLOOM and Qwen2 (parallel against non-parallel sentences by layer).

Does not show: that meaning is what is shared: names, numbers and lengths that both sentences hold are shared as well
(compare with state 0, where only words are). A probe may move although states do not, and the other way round.

Control: `other`; the embedding; texts of one language paired at random (excess 0 in expectation).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from analyses.core import reading, stats
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.reading.where_read import Pooling
from analyses.core.result import Result
from analyses.core.work import Case, Work
from probe.errors import InputError
from probe.lazily import sklearn

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

FEWEST = 8  # problems
LABELS = {
    "parallel": "cosine of one sentence in two languages", "other": "cosine with other sentences",
    "excess": "parallel minus other", "right_within": "probe right in its own language",
    "right_transfer": "probe right in another language", "loss": "what the probe loses on the way",
}  # fmt: skip
WHAT = "sentences that say the same in two languages have states that are alike"
States = Float[np.ndarray, "problem language d_model"]


def _work(case: Case) -> Work:
    states = case.n_layers + 1
    return Work(block_rows=case.full_pass, rows=states / 2, row_bytes=40, sites=states, spilled=states)


@analysis(work=_work, renamed={"strength": "regularisation"})
def parallel_texts(
    model: Model,
    prompts: Prompts,
    *,
    pooling: Pooling = "mean_prompt",
    regularisation: float = 0.01,
    folds: int = 5,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Cosine of parallel and of other sentences at every state, and what a probe loses in another language.

    Rows, one per problem and state: item (the problem), group, state, parallel, other, excess, right_within,
    right_transfer, loss.

    Args:
        regularisation: of the probe, scikit-learn's C (smaller is stronger).
        folds: of the problems, for the probe.
        seed: folds and the bootstrap.
    """
    if regularisation <= 0 or folds < 2:
        given = f"regularisation={regularisation}, folds={folds}"
        raise InputError(f"{given}; expected a positive strength and at least 2 folds")
    problems, languages = _parallel(prompts)
    plan: dict[str, object] = {"batch_size": batch_size, "template": template, "pooling": pooling}
    states = reading.pooled_states(model, prompts, what="parallel texts", **plan)  # pyright: ignore[reportArgumentType]
    row = {(i.problem, i.variant): n for n, i in enumerate(states.items)}
    at = np.array([[row[p, v] for v in languages] for p in problems])
    groups = states.groups[at[:, 0]]
    fold = _folds(groups, folds, seed)
    parts: list[pd.DataFrame] = []
    for state in range(states.n_layers + 1):
        x = states.layer(state)[at]
        named = {"item": problems, "group": groups, "state": state}
        parts.append(pd.DataFrame({**named, **compared(x), **moved(x, groups, fold, regularisation)}))
    table = pd.concat(parts, ignore_index=True)
    table["loss"] = table["right_within"] - table["right_transfer"]
    table = table.sort_values(["item", "state"], kind="stable", ignore_index=True)
    data = [stats.estimate(table, q, ["state"], seed=seed, units="1", long_name=v) for q, v in LABELS.items()]
    return Result.of(table, xr.merge(data, join="outer"), claims=[_claim(table, seed)])


def _parallel(prompts: Prompts) -> tuple[list[str], list[str]]:
    """Problems that are asked in every language, and the languages.

    Raises:
        InputError: fewer than two languages, or fewer than three problems in all of them.
    """
    languages = sorted({i.variant for i in prompts.items if i.variant})
    asked: dict[str, set[str]] = {}
    for item in prompts.items:
        asked.setdefault(item.problem, set()).add(item.variant)
    problems = sorted(p for p, v in asked.items() if v >= set(languages))
    if len(languages) < 2 or len(problems) < 3:
        raise InputError(
            f"{len(languages)} languages and {len(problems)} problems in all of them; expected two and three at least: "
            "rows of one `id` with a column `variant` that names the language"
        )
    return problems, languages


def centred(x: States) -> States:
    """States less each language's mean over the problems."""
    return x - x.mean(0)


def compared(x: States) -> dict[str, np.ndarray]:
    """parallel, other and excess of every problem, means over pairs of languages; NaN where a centred state is 0."""
    x = centred(np.asarray(x, float))
    size = np.linalg.norm(x, axis=-1, keepdims=True)
    unit = np.divide(x, size, out=np.full(x.shape, np.nan), where=size > 1e-9)
    n, found = len(x), {"parallel": list[np.ndarray](), "other": list[np.ndarray]()}
    for a, b in permutations(range(x.shape[1]), 2):
        cosine = unit[:, a] @ unit[:, b].T
        own = np.diag(cosine)
        found["parallel"].append(own)
        found["other"].append((cosine.sum(1) - own) / (n - 1))
    parallel, other = (np.mean(v, axis=0) for v in found.values())
    return {"parallel": parallel, "other": other, "excess": parallel - other}


def _folds(groups: np.ndarray, folds: int, seed: int) -> np.ndarray | None:
    """Fold of every problem, stratified by group; None where there are not two groups of enough problems."""
    names, counts = np.unique(groups.astype(str), return_counts=True)
    if len(names) != 2 or counts.min() < folds:
        return None
    split = sklearn.model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    found = np.zeros(len(groups), int)
    for number, (_, test) in enumerate(split.split(groups, groups.astype(str))):
        found[test] = number
    return found


def moved(x: States, groups: np.ndarray, fold: np.ndarray | None, strength: float) -> dict[str, np.ndarray]:
    """Share of languages in which a held-out problem is told right, by a probe of its own and of another language."""
    n, count = x.shape[:2]
    if fold is None:
        return {"right_within": np.full(n, np.nan), "right_transfer": np.full(n, np.nan)}
    x, y = centred(np.asarray(x, float)), groups.astype(str)
    x = x / max(float(x.std()), 1e-12)
    right = np.zeros((n, count, count))  # problem, language fitted in, language read
    for number, language in ((f, c) for f in range(fold.max() + 1) for c in range(count)):
        test = fold == number
        probe = sklearn.linear_model.LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
        probe.fit(x[~test, language], y[~test])
        told = [probe.predict(x[test, other]) == y[test] for other in range(count)]
        right[test, language] = np.stack(told, axis=1)
    own = np.einsum("nll->n", right)
    return {"right_within": own / count, "right_transfer": (right.sum((1, 2)) - own) / (count * (count - 1))}


def _claim(table: pd.DataFrame, seed: int) -> Claim:
    """Whether the excess exceeds 0 at any state, over all states together; the place is the clearest one."""
    wide = table.pivot_table("excess", "item", "state").dropna(axis=1)
    said: Fields = {
        "n": len(wide), "family": f"{wide.shape[1]} states", "control": "other sentences of the same languages",
        "estimand": "cosine of parallel minus cosine of other sentences", "unit": "cosine",
        "caveat": "names and numbers that both sentences hold are shared too",
    }  # fmt: skip
    if len(wide) < FEWEST or not wide.shape[1]:
        why, needs = f"{len(wide)} problems are asked in all languages", f"at least {FEWEST} problems"
        return Claim("shared", UNJUDGED, WHAT, why=why, needs=needs, **said)
    test = stats.mean_max_t(wide.to_numpy(), clusters=stats.clusters_of(wide.index), seed=seed, draws=1000)
    best = int(np.argmax(test.low))
    state, found = int(str(wide.columns[best])), bool(test.low[best] > 0)
    values = {"effect": float(test.value[best]), "low": float(test.low[best]), "high": float(test.high[best])}
    said |= {"p": float(test.p_cell[best]), "place": f"state {state}", **values}
    return Claim("shared", FOUND if found else NONE, f"{WHAT}, most at state {state}" if found else WHAT, **said)


def figures(result: Result) -> dict[str, Figure]:
    """Cosines and the probe's hits over states; with steps, one line a step."""
    rows = result.summary()
    return dict(_drawn(rows))


def _drawn(rows: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    titles = {
        "cosines": "States of parallel and of other sentences",
        "probe": "A probe in its own language and another",
    }
    parts = {"cosines": ("parallel", "other"), "probe": ("right_within", "right_transfer")}
    for name, quantities in parts.items():
        part = rows[rows["quantity"].isin(quantities)]
        color, facet = ("step", "quantity") if "step" in rows else ("quantity", None)
        yield name, curve(part, x="state", color=color, facet=facet, title=titles[name])
