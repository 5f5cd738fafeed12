"""Claims as cards: one line that answers, one grey line, everything else on demand; without a page.

Nothing is decided here: sentences and details are those of `analyses.core.claim`. Claims of one kind with one answer
share a card, whichever runs they are about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from analyses.core import claim
from analyses.core.claim import ALARMING, FOUND, NONE, UNJUDGED, Claim
from apps.drawn.look import BAD, GOOD, PLACE, SIGNS, UNKNOWN, markup, text

Said = tuple[str, str, Claim]  # run, analysis, what it says
ORDER = {BAD: 0, GOOD: 1, PLACE: 2, UNKNOWN: 3}
PLACES = {"place", "contrast"}
SHORT = {
    ("memory", FOUND): "Answers from memory",
    ("memory", NONE): "No memory found in its answers",
    ("worse", FOUND): "Got worse",
    ("worse", NONE): "Did not get worse",
    ("over-memorized", FOUND): "Over-memorized",
    ("over-memorized", NONE): "Not over-memorized",
    ("over-fit", FOUND): "Over-fit",
    ("over-fit", NONE): "Not over-fit",
    ("fall", FOUND): "Lost seen answers",
    ("fall", NONE): "Kept seen answers",
    ("ship", FOUND): "Ship",
}
FIRST = 6  # cards at first sight
LONGEST = 36  # characters of a title that a card has room for
MOST = 5  # runs a card names
NUMBER = re.compile(r"\d+")
DIRECTION = " from "
# The questions of the tool: of which analysis and kind of claim their answer is; each has a card at first sight.
EXPECTED = {
    "memory or not": ("gains", "memory"),
    "what to ship": ("over_memorization", "ship"),
    "where it sits": ("cross_patching", "place"),
    "why entropy fell": ("entropy_change", "place"),
    "turning it off": ("mlp_key_steering", "selective"),
}


@dataclass(frozen=True)
class Card:
    """What a kind of claim says of some runs.

    Attributes:
        tone: good, bad, place or unknown.
        title: the answer, one line.
        quiet: of whom, since when, how much: one line.
        said: the claims behind it.
        question: of `EXPECTED`, that it answers; "" for none of them.
    """

    tone: str
    title: str
    quiet: str
    said: tuple[Said, ...]
    question: str = ""


def tone(one: Claim) -> str:
    """Good, bad, place or unknown: what is alarming is bad where found and good where not."""
    if one.answer == UNJUDGED:
        return UNKNOWN
    if one.kind in ALARMING:
        return BAD if one.is_found else GOOD
    if one.is_found:
        return PLACE if one.place or one.kind in PLACES else GOOD
    return UNKNOWN


def verdict(said: Iterable[Claim]) -> str:
    """The tone of a run: the worst that was found, good where something was, unknown where nothing is judged."""
    tones = {tone(c) for c in said} - {PLACE}
    return next((t for t in (BAD, GOOD) if t in tones), UNKNOWN)


def cards(said: Sequence[Said]) -> list[Card]:
    """One card for each kind and answer, what was found first; the places of one analysis are one card."""
    together: dict[tuple[str, str, str], list[Said]] = {}
    for one in said:
        of = one[2]
        apart = "" if (of.kind, of.answer) in SHORT else one[1]
        together.setdefault((of.kind, of.answer, apart), []).append(one)
    made = [_card(tuple(of)) for of in together.values()]
    rank = {FOUND: 0, NONE: 1, UNJUDGED: 2}
    return sorted(made, key=lambda c: (ORDER[c.tone], rank[c.said[0][2].answer]))


def _card(said: tuple[Said, ...]) -> Card:
    said = _ordered(said)
    strongest = max(said, key=lambda s: _weight(s[2]))
    of = {run: [c for r, _, c in said if r == run] for run in dict.fromkeys(run for run, _, _ in said)}
    size = _size(strongest[2])
    facts = [*_some([_of_run(run, own) for run, own in of.items()]), size, strongest[2].why]
    if len(of) > 1 and size:
        facts[-2] = f"most in {strongest[0]}: {size}"
    asked = (strongest[1], strongest[2].kind)
    question = next((q for q, of in EXPECTED.items() if of == asked), "")
    return Card(tone(strongest[2]), _title(said, strongest[2]), " · ".join(f for f in facts if f), said, question)


def _ordered(said: tuple[Said, ...]) -> tuple[Said, ...]:
    """Of places the strongest first; of checkpoints to ship, runs that have one for all their items."""
    kind = said[0][2].kind
    if kind == "ship":
        return tuple(sorted(said, key=lambda s: s[2].group is not None))
    return tuple(sorted(said, key=lambda s: -_weight(s[2]))) if kind == "place" else said


def _weight(one: Claim) -> float:
    return 0.0 if math.isnan(one.effect) else abs(one.effect)


def _of_run(run: str, own: Sequence[Claim]) -> str:
    """A run with its own part of a card's answer: its place, its checkpoint, since when."""
    if places := [_place(c) for c in own if c.kind == "place" and c.is_found and c.place]:
        return f"{run}: {places[0]}"
    if steps := _shipped(own):
        return f"{run} @ {'/'.join(steps)}" + (" by group" if len(steps) > 1 else "")
    found = [c.step for c in own if c.step is not None and c.is_found]
    return f"{run} since step {min(found):g}" if found else run


def _place(one: Claim) -> str:
    return str(one.place).partition(DIRECTION)[0].removeprefix("the ")


def _shipped(own: Iterable[Claim]) -> list[str]:
    """The steps that claims of shipping name, in order."""
    found = {int(number[0]) for c in own if c.kind == "ship" and c.is_found and (number := NUMBER.search(c.what))}
    return [str(step) for step in sorted(found)]


def _title(said: Sequence[Said], one: Claim) -> str:
    short = SHORT.get((one.kind, one.answer))
    if one.kind == "ship" and short:
        runs = dict.fromkeys(run for run, _, _ in said)
        steps = [_of_run(run, [c for r, _, c in said if r == run]) for run in runs]
        return f"{short} {steps[0]}" if len(steps) == 1 else f"{short}: a step for each run"
    clause = one.what.partition(",")[0]
    if one.kind == "place" and one.is_found and one.place and (one.place not in clause or len(clause) > LONGEST):
        of_runs = {run: _place(c) for run, _, c in reversed(said) if c.is_found and c.place}
        alike = len(set(of_runs.values())) == 1
        clause = f"In {one.place.partition(DIRECTION)[0]}" if alike else "Where: a place for each run"
    if one.answer == FOUND:
        return short or f"{clause[:1].upper()}{clause[1:]}"
    return short or f"{'None found' if one.answer == NONE else 'Not judged'}: {clause}"


def _some(texts: Sequence[str]) -> list[str]:
    """All of a few, else the first and how many more."""
    return list(texts) if len(texts) <= MOST else [*texts[: MOST - 1], f"and {len(texts) - MOST + 1} more"]


def _size(one: Claim) -> str:
    """The effect without its interval, which is told on demand, and what it is of."""
    said = claim.effect(replace(one, low=math.nan, high=math.nan))
    return f"{said}: {one.estimand}" if said and one.estimand else said


def first(made: Sequence[Card]) -> list[Card]:
    """The cards for the first screen: the first of every question, what was not assessed, then the next in order."""
    chosen = [c for q in EXPECTED if (c := next((c for c in made if c.question == q), None))]
    chosen += [c for c in made if not c.said]
    chosen = [*chosen, *(c for c in made if c not in chosen)][:FIRST]
    return [c for c in made if c in chosen]


def missing(analyses: Iterable[str]) -> list[Card]:
    """What no result here answers, as one card; none where nothing is missing."""
    there = set(analyses)
    left = {question: name for question, (name, _) in EXPECTED.items() if name not in there}
    if len(left) < 2:
        return [Card(UNKNOWN, f"Not assessed: {q}", f"no result of {name} is here", ()) for q, name in left.items()]
    told = " · ".join(f"{question} ({name})" for question, name in left.items())
    return [Card(UNKNOWN, f"{len(left)} questions not assessed", told, ())]


def row(found: Sequence[Card]) -> str:
    """Cards as markup: a title picks its runs, the grey line opens to intervals and what stands beside."""
    return markup(f'<div class="cards">{"".join(map(_markup, found))}</div>', "Answers")


def _markup(card: Card) -> str:
    runs = "\n".join(dict.fromkeys(run for run, _, _ in card.said))
    sign = f'<span aria-label="{card.tone}">{SIGNS[card.tone]}</span> '
    whole = text(" ".join(claim.sentence(c) for _, _, c in card.said))
    title = f'<button class="title" data-pick="{text(runs)}" title="{whole}">{sign}{text(card.title)}</button>'
    if not card.said:
        return f'<div class="card {card.tone}"><span class="title">{sign}{text(card.title)}</span>' + (
            f'<div class="quiet">{text(card.quiet)}</div></div>'
        )
    told = "".join(_told(*one) for one in card.said)
    quiet = f"<summary><span>{text(card.quiet)}</span></summary>"
    return f'<div class="card {card.tone}">{title}<details>{quiet}{told}</details></div>'


def _told(run: str, analysis: str, one: Claim) -> str:
    beside: Mapping[str, object] = claim.card(one)
    details = beside["details"]
    assert isinstance(details, list)
    lines = "".join(f"<dt>{text(label)}</dt><dd>{text(value)}</dd>" for label, value in details)
    said = f'<p class="said"><b>{text(run)}</b> {text(claim.sentence(one))}</p>'
    return f"{said}<dl><dt>from</dt><dd>{text(analysis)}</dd>{lines}</dl>"
