"""A claim as data, and the only place where one becomes words.

An analysis that speaks returns claims: what is claimed, where, of whom and since when; the estimand and its effect with
an interval that holds for everything that was looked at; the p, the items, the control it was compared with, what was
assumed; and one of three answers. `found` and `none found` are judgements, `cannot be judged` is not one: it says why
and what would let it be judged. Terminal, page, report and JSON show what `sentence`, `row`, `card` and `as_json` make
of a claim, so none of them can say more than another. Never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

Answer: TypeAlias = Literal["found", "none found", "cannot be judged"]
Json: TypeAlias = "str | float | list[str] | None"

Fields: TypeAlias = dict[str, Any]
"""Fields of a claim by name, gathered before it is made."""

FOUND: Answer = "found"
NONE: Answer = "none found"
UNJUDGED: Answer = "cannot be judged"
ANSWERS: tuple[Answer, ...] = (FOUND, NONE, UNJUDGED)
MOST_WORDS = 25
ALARMING = {"worse": "error", "memory": "warning", "over-memorized": "warning", "over-fit": "warning"}
NAN = float("nan")
DETAILS = {
    "estimand": "what was estimated",
    "control": "compared with",
    "place": "place",
    "group": "items",
    "p": "p",
    "n": "n",
    "family": "holds for all of",
    "share": "share of the gap",
    "assumptions": "assumed",
    "caveat": "but",
    "needs": "what would let it be judged",
}


@dataclass(frozen=True)
class Claim:
    """One thing that an analysis says.

    Attributes:
        kind: what sort of claim, one word or two of the analysis's own: memory, worse, ship, place, ...
        answer: found, none found or cannot be judged.
        what: the clause itself, who did what (of `none found`: what is not the case), without numbers or a full stop.
        estimand: what `effect` estimates, in words.
        effect, low, high: the estimate and its interval, simultaneous over `family`; NaN where there is none.
        unit: of the effect, as it follows the number; "" for a fraction.
        is_change: whether the effect is a difference (printed with its sign) or a level.
        p: corrected over `family`; NaN where nothing was tested.
        n: units that entered (clusters where there are clusters; of two groups the smaller).
        family: everything looked at for which interval and p hold together, in words: "12 places, 2 groups".
        control: what it was compared with; "" only where the claim is about the run alone.
        assumptions: what was checked, each with its outcome.
        group, place, step: of whom, where, since when; None where the claim has none.
        why: of `cannot be judged`: the reason, a clause.
        needs: of `cannot be judged`: what would let it be judged.
        share: the effect as a share of a gap whose own interval leaves out 0; NaN elsewhere.
        caveat: what a reader must not conclude.
    """

    kind: str
    answer: Answer
    what: str
    estimand: str = ""
    effect: float = NAN
    low: float = NAN
    high: float = NAN
    unit: str = ""
    is_change: bool = True
    p: float = NAN
    n: int = 0
    family: str = ""
    control: str = ""
    assumptions: tuple[str, ...] = ()
    group: str | None = None
    place: str | None = None
    step: float | None = None
    why: str = ""
    needs: str = ""
    share: float = NAN
    caveat: str = ""

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"answer {self.answer!r}; expected one of {', '.join(ANSWERS)}")
        if (self.answer == UNJUDGED) != bool(self.why and self.needs):
            raise ValueError(f"{self.kind}: why and needs belong to {UNJUDGED!r}, both, and to nothing else")
        if not self.what:
            raise ValueError(f"{self.kind}: a claim without a clause")
        outside = self.effect < self.low or self.effect > self.high
        if outside:
            raise ValueError(f"{self.kind}: the effect {self.effect} lies outside [{self.low}, {self.high}]")

    @property
    def is_found(self) -> bool:
        return self.answer == FOUND


def sentence(claim: Claim) -> str:
    """One plain sentence: who did what, since when, with one interval; at most `MOST_WORDS` words (`words`).

    >>> sentence(Claim("memory", NONE, "none of the layers holds it", n=12))
    'None found: none of the layers holds it.'
    """
    if claim.answer == UNJUDGED:
        return f"Cannot be judged whether {claim.what}: {claim.why}."
    clause = claim.what if claim.answer == NONE else _capital(claim.what)
    if claim.step is not None:
        clause += f" since step {claim.step:g}"
    if measured := effect(claim):
        clause += f": {measured}"
    return f"None found: {clause}." if claim.answer == NONE else f"{clause}."


def words(claim: Claim) -> int:
    """Words of the sentence, of which at most `MOST_WORDS` are allowed; a name of a group or place counts as one."""
    said = sentence(claim)
    for name in (claim.place, claim.group):
        said = said.replace(name, "name") if name else said
    return len(said.split())


def effect(claim: Claim) -> str:
    """The effect with its interval and unit, "" where none was measured."""
    if math.isnan(claim.effect):
        return ""
    digits = _digits(claim)
    said = f"{claim.effect:{digits}}"
    if not math.isnan(claim.low):
        said += f" [{claim.low:{digits}}, {claim.high:{digits}}]"
    return f"{said} {claim.unit}".rstrip()


def _digits(claim: Claim) -> str:
    """Three digits of the largest number; the same number of decimals in all three."""
    size = max(abs(v) for v in (claim.effect, claim.low, claim.high) if not math.isnan(v))
    decimals = 2 if size == 0 or not math.isfinite(size) else min(max(2 - math.floor(math.log10(size)), 0), 6)
    return f"{'+' if claim.is_change else ''}.{decimals}f"


def text(claims: Iterable[Claim]) -> str:
    """All claims as one text."""
    return " ".join(sentence(c) for c in claims)


def row(claim: Claim) -> dict[str, Json]:
    """A row of a table: the sentence last, unmeasured numbers None."""
    return {**as_json(claim), "sentence": sentence(claim)}


def card(claim: Claim) -> dict[str, object]:
    """What a page shows: the answer, a tone (info, warning, error), the sentence, and (label, text) beside it."""
    tone = ALARMING.get(claim.kind, "info") if claim.is_found else "info"
    return {"answer": claim.answer, "tone": tone, "sentence": sentence(claim), "details": list(_details(claim))}


def _details(claim: Claim) -> Iterator[tuple[str, str]]:
    numbers = {"p": f"{claim.p:.3g}", "share": f"{claim.share:.0%}", "n": str(claim.n or "nan")}
    for name, label in DETAILS.items():
        value = "; ".join(claim.assumptions) if name == "assumptions" else getattr(claim, name)
        shown = numbers.get(name, str(value or ""))
        if shown not in ("", "nan", "nan%"):
            yield label, shown


def as_json(claim: Claim) -> dict[str, Json]:
    """Fields of a claim as JSON takes them: NaN is None."""
    return {f.name: _plain(getattr(claim, f.name)) for f in fields(claim)}


def from_json(entry: Mapping[str, object]) -> Claim:
    """The claim that `as_json` wrote; entries of a newer version that are not known here are left out."""
    values: dict[str, Any] = {}
    for field in fields(Claim):
        if field.name in entry:
            value: Any = entry[field.name]
            missing = value is None and field.default is NAN
            values[field.name] = NAN if missing else tuple(value) if isinstance(value, list) else value
    return Claim(**values)


def _plain(value: object) -> Json:
    if isinstance(value, tuple):
        return [str(v) for v in value]
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = float(str(value))  # numpy's numbers among them
    return None if math.isnan(number) else number


def agreeing(claims: Sequence[Claim]) -> list[Claim]:
    """The same claims, those that say the same of several groups joined into one about all of them."""
    out: dict[object, list[Claim]] = {}
    for claim in claims:
        same = (claim.kind, claim.answer, claim.what, claim.place, claim.step, claim.why)
        out.setdefault(same if math.isnan(claim.effect) else id(claim), []).append(claim)
    return [replace(c[0], group=", ".join(x.group for x in c if x.group) or None) for c in out.values()]


def _capital(clause: str) -> str:
    return clause[:1].upper() + clause[1:]
