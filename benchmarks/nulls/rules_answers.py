"""Rules that read graded responses, with the nulls and the plants that apply to each."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from analyses.answers import _samples, capability, conformal_sets, pass_curves, stated_confidence
from analyses.core.analysis import get
from analyses.core.claim import Claim
from analyses.core.result import Result
from benchmarks.nulls import zoo_answers as zoo
from benchmarks.nulls import zoo_said
from benchmarks.nulls.rule import DEAR, Rule

Asked = Callable[[Result], list[Claim]]


def of(name: str, **options: Any) -> Asked:
    """The claims of an analysis of `evaluate`'s results."""

    def ask(given: Result) -> list[Claim]:
        return get(name)(given, **options).claims

    return ask


def passed(given: Result) -> list[Claim]:
    """The claims of pass_curves, whose curves in between are left out: they decide nothing."""
    responses = _samples.sampled(given.table, "pass_curves")
    table = pass_curves._with_changes(pass_curves._curves(responses, pass_curves._usable(responses, ())))
    return list(pass_curves._claims(table[table["step"] > 0]))


def sharper(given: Result) -> list[Claim]:
    """The claims of conformal_sets, without the sets of every step."""
    return list(conformal_sets._claims(conformal_sets._of_samples(given.table), (0.1, "keep", False), 0))


def split(given: Result) -> list[Claim]:
    """The claims of capability, without the intervals of its eleven quantities."""
    counted = _samples.counts(_samples.sampled(given.table, "capability"))
    table = _samples.since_first(counted, "capability").reset_index(drop=True)
    parts = [capability._of(*row) for row in table[["n_before", "c_before", "n", "c"]].itertuples(index=False)]
    return list(capability._claims(pd.concat([table, pd.DataFrame(parts)], axis=1)))


def stated(given: Result) -> list[Claim]:
    """The claims of stated_confidence, without its curves."""
    rows = stated_confidence._responses(given.table, "text")
    rows["confidence"] = stated_confidence._confidences(rows, "text", None)
    rows["asserts"] = [float(stated_confidence.HEDGE.search(str(t)) is None) for t in rows["text"]]
    return list(stated_confidence._claims(rows.dropna(subset=["confidence", "right"]), rows))


def _only(kind: str) -> dict[str, tuple[str, ...]]:
    return {kind: (kind,)}


SPLIT = ("capability gain", "self distillation", "forgetting")
TOLD = {k: (k,) for k in ("over-confident", "discerning", "asserting")}
SHOWN = of("behaviours", patterns=("a=b0", "b=b1", "c=b2"))
PASSED = {"narrower or broader": ("narrower", "broader")}

RULES: dict[str, Rule[Any]] = {
    "pass_curves": Rule(PASSED, passed, zoo.ANEW, zoo.NARROWED | zoo.BROADENED),
    "capability": Rule({"any part": SPLIT}, split, zoo.ANEW, zoo.MOVED),
    "conformal_sets": Rule(_only("sharper"), sharper, zoo.SHARP, zoo.SHARPENED, DEAR),
    "abstention": Rule(_only("abstains"), of("abstention"), zoo.ABSTAINED, zoo.ABSTAINED_PLANTS),
    "abstention, over steps": Rule(_only("fabricates"), of("abstention"), zoo.KEPT, zoo.LOST),
    "answer_agreement": Rule(_only("wording"), of("answer_agreement", deals=20), zoo.WORDED, zoo.WORDED_PLANTS),
    "input_diversity": Rule(_only("alike"), of("input_diversity"), zoo.PAIRED, zoo.PAIRED_PLANTS),
    "cue_pairs": Rule(_only("follows"), of("cue_pairs"), zoo.CUED, zoo.CUED_PLANTS),
    "cue_pairs, told": Rule(_only("discloses"), of("cue_pairs"), zoo.TOLD, zoo.TOLD_PLANTS),
    "stated_confidence": Rule(TOLD, stated, zoo_said.CONFIDENT, zoo_said.CONFIDENT_PLANTS),
    "behaviours": Rule(_only("behaviour"), SHOWN, zoo_said.BEHAVING, zoo_said.BEHAVING_PLANTS),
    "temperatures": Rule(_only("exclusive"), of("temperatures"), zoo_said.HEATED, zoo_said.HEATED_PLANTS),
    "entropy_hump": Rule(_only("hump"), of("entropy_hump"), zoo_said.HUMPED, zoo_said.HUMPED_PLANTS),
    "turn_gain": Rule(_only("informs"), of("turn_gain", deals=20), zoo_said.DIALOGUES, zoo_said.DIALOGUES_PLANTS),
    "rivals": Rule(_only("form"), of("rivals", draws=200), zoo_said.FORMED, zoo_said.FORMED_PLANTS),
}  # fmt: skip
