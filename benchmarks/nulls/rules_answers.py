"""Rules that read graded responses, with the nulls and the plants that apply to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def _only(kind: str) -> dict[str, tuple[str, ...]]:
    return {kind: (kind,)}


STATED = of("stated_confidence", source="text")
SPLIT = ("capability gain", "self distillation", "forgetting")
TOLD = {k: (k,) for k in ("over-confident", "discerning", "asserting")}
SHOWN = of("behaviours", patterns=("a=b0", "b=b1", "c=b2"))
PASSED = {"narrower or broader": ("narrower", "broader")}

RULES: dict[str, Rule[Any]] = {
    "pass_curves": Rule(PASSED, of("pass_curves"), zoo.ANEW, zoo.NARROWED | zoo.BROADENED),
    "capability": Rule({"any part": SPLIT}, of("capability"), zoo.ANEW, zoo.MOVED),
    "conformal_sets": Rule(_only("sharper"), of("conformal_sets", splits=2), zoo.SHARP, zoo.SHARPENED, DEAR),
    "abstention": Rule(_only("abstains"), of("abstention"), zoo.ABSTAINED, zoo.ABSTAINED_PLANTS),
    "abstention, over steps": Rule(_only("fabricates"), of("abstention"), zoo.KEPT, zoo.LOST),
    "answer_agreement": Rule(_only("wording"), of("answer_agreement", deals=20), zoo.WORDED, zoo.WORDED_PLANTS),
    "input_diversity": Rule(_only("alike"), of("input_diversity", deals=20), zoo.PAIRED, zoo.PAIRED_PLANTS),
    "cue_pairs": Rule(_only("follows"), of("cue_pairs"), zoo.CUED, zoo.CUED_PLANTS),
    "cue_pairs, told": Rule(_only("discloses"), of("cue_pairs"), zoo.TOLD, zoo.TOLD_PLANTS),
    "stated_confidence": Rule(TOLD, STATED, zoo_said.CONFIDENT, zoo_said.CONFIDENT_PLANTS),
    "behaviours": Rule(_only("behaviour"), SHOWN, zoo_said.BEHAVING, zoo_said.BEHAVING_PLANTS),
    "temperatures": Rule(_only("exclusive"), of("temperatures"), zoo_said.HEATED, zoo_said.HEATED_PLANTS),
    "entropy_hump": Rule(_only("hump"), of("entropy_hump"), zoo_said.HUMPED, zoo_said.HUMPED_PLANTS),
    "turn_gain": Rule(_only("informs"), of("turn_gain", deals=20), zoo_said.DIALOGUES, zoo_said.DIALOGUES_PLANTS),
    "rivals": Rule(_only("form"), of("rivals", draws=200), zoo_said.FORMED, zoo_said.FORMED_PLANTS),
}  # fmt: skip
