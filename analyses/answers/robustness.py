"""How much accuracy a checkpoint loses when a question is changed in ways that should not matter.

Definition: every item is answered greedily as it is and under each perturbation that applies to it; drop = accuracy
unperturbed minus accuracy perturbed, over the items measured under both. consistency = share of perturbations under
which an item that is answered correctly stays correct; local_inconsistency = accuracy x (1 - mean consistency), 0 for
a model that is robust, 1 for one that is perfect and brittle. mcnemar_p is the exact two-sided p of the flips,
mcnemar_p_holm the same corrected over all perturbations, groups and kinds of answers.

Units: fractions of items.

Source: arXiv 2508.04117 (preambles); 2410.23123 for accuracy x (1 - consistency), from memory of it.

Does not show: which change matters to a model that cannot read it: sentences outside its vocabulary are another
question. Number changes make new questions, for which an answer known by heart does not help: that drop is the one
memory predicts, the others are sensitivity of any kind.

Control: the base checkpoint; checkpoints of equal unperturbed accuracy; identical perturbed text gives drop 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from analyses.answers._perturbations import IRRELEVANT, PARAPHRASES, PREAMBLES, Texts, perturbed
from analyses.core import stats
from analyses.core.analysis import analysis
from analyses.core.figures import curve, forest
from analyses.core.reading.answered import readable
from analyses.core.reading.grading import Grader, grader
from analyses.core.reading.kept_responses import Decoding, question, responses
from analyses.core.result import Result
from analyses.core.work import Case, Work, generation

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from probe import Model, Prompts

BY = ["group", "answer_kind", "variant"]
AS_IS = "as is"


def _work(case: Case) -> Work:
    """A response as it is, and one under each perturbation."""
    return generation(case, 1 + len(case.options["perturbations"]))


@analysis(work=_work)
def robustness(
    model: Model,
    prompts: Prompts,
    *,
    perturbations: tuple[str, ...] = ("preamble", "paraphrase", "irrelevant", "typos", "numbers", "options"),
    preambles: tuple[str, ...] = PREAMBLES,
    paraphrases: tuple[str, ...] = PARAPHRASES,
    irrelevant: tuple[str, ...] = IRRELEVANT,
    largest: int | None = None,
    grade: str = "auto",
    pattern: str | None = None,
    max_new_tokens: int = 512,
    template: Literal["none", "chat"] = "none",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Accuracy as is and under each perturbation, paired drops with intervals, local inconsistency.

    Args:
        perturbations: which ones: preamble, paraphrase, irrelevant, typos, numbers, options.
        preambles: sentences put before the question.
        paraphrases: instructions around it, `{question}` standing for it.
        irrelevant: sentences put before its last one.
        largest: no new number or intermediate result may be larger (a small vocabulary needs this).
        batch_size: of generation.
        seed: perturbations and the bootstrap.
    """
    graded_by = grader(grade, pattern)
    readable(prompts, graded_by)
    texts = Texts(preambles, paraphrases, irrelevant, largest)
    asked = {(i.key, AS_IS): i for i in prompts.items}
    skipped: dict[str, int] = {}
    for name in perturbations:
        changed = {(i.key, name): new for i in prompts.items if (new := perturbed(i, name, texts, seed)) is not None}
        skipped[name] = len(prompts.items) - len(changed)
        asked |= changed
    table = _answered(model, asked, graded_by, max_new_tokens, template, batch_size)
    warnings = [f"{name} does not apply to {n} of {len(prompts.items)} items" for name, n in skipped.items() if n]
    return Result.of(table, _aggregates(table, seed), warnings=warnings)


def _answered(
    model: Model, asked: dict[Any, Any], graded_by: Grader, max_new_tokens: int, template: Any, batch_size: int
) -> pd.DataFrame:

    # One response per text, whatever kinds of gold answers it has.
    texts = {(item.id, variant): question(item) for ((_, variant), item) in asked.items()}
    names = {at: f"{at[0]}@{at[1]}" for at in texts}
    how = Decoding(max_new_tokens, template=template)
    drawn = responses(model, [(names[at], t) for at, t in texts.items()], how, batch_size=batch_size, what="robustness")
    rows = []
    for (_, variant), item in asked.items():
        response = drawn[names[item.id, variant]][0]
        grade = graded_by(response.text, item)
        rows.append(
            {
                "item": item.id,
                "group": item.group,
                "answer_kind": item.answer_kind,
                "variant": variant,
                "status": grade.status,
                "accuracy": np.nan if grade.status == "gold_unparsed" else float(grade.status == "correct"),
                "truncated": response.truncated,
                "prompt": item.prompt,
                "gold": item.answer,
                "text": response.text,
            }
        )
    table = pd.DataFrame(rows)
    own = table[table["variant"] == AS_IS].set_index(["item", "answer_kind"])["accuracy"]
    before = pd.MultiIndex.from_frame(table[["item", "answer_kind"]])
    table["drop"] = own.reindex(before).to_numpy() - table["accuracy"]
    return table


def _aggregates(table: pd.DataFrame, seed: int) -> xr.Dataset:
    changed = table[table["variant"] != AS_IS]
    # Unreadable answers count as not correct here: a perturbation that destroys the answer has an effect.
    parts = [
        stats.estimate(table, "accuracy", BY, seed=seed, units="1"),
        stats.estimate(changed, "drop", BY, seed=seed, units="1", long_name="drop of accuracy"),
        stats.estimate(_inconsistency(table), "local_inconsistency", BY[:2], seed=seed, units="1"),
    ]
    p = {
        at: stats.mcnemar_exact(int((of["drop"] == 1).sum()), int((of["drop"] == -1).sum()))
        for at, of in changed.groupby(BY, sort=True)
    }
    if p:
        index = pd.MultiIndex.from_tuples(list(p), names=BY)
        each = {"mcnemar_p": list(p.values()), "mcnemar_p_holm": stats.holm(list(p.values()))}
        parts.append(pd.DataFrame(each, index).to_xarray())
    return xr.merge(parts, join="outer")


def _inconsistency(table: pd.DataFrame) -> pd.DataFrame:
    """Per item: 1 - share of perturbations under which it stays correct, if it is correct as is; 0 if it is not.

    The mean over items is accuracy x (1 - consistency of the correct ones).
    """
    wide = table.pivot_table(index=["item", "group", "answer_kind"], columns="variant", values="accuracy")
    others = wide.drop(columns=AS_IS)
    lost = 1 - others.mean(axis=1)
    value = (lost * (wide[AS_IS] == 1.0)).where(wide[AS_IS].notna() & others.notna().any(axis=1))
    return value.rename("local_inconsistency").reset_index()


def figures(result: Result) -> dict[str, Figure]:
    """Drop of accuracy by perturbation, over steps where there are any."""

    rows = result.summary()
    rows = rows[rows["quantity"] == "drop"]
    rows = rows.assign(series=rows["group"].astype(str) + ", " + rows["answer_kind"].astype(str))
    title = "Accuracy lost under perturbation"
    if "step" in rows:
        return {"drop": curve(rows, x="step", color="variant", facet="series", title=title, reference=0.0)}
    return {"drop": forest(rows, label="variant", color="series", title=title)}
