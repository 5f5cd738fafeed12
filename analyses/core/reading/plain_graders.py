"""What is expected of a response, its grade, and the graders that need no mathematics. Never imports torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from analyses.core.reading import wording
from analyses.core.reading.answers import candidates, find, last_sentence
from analyses.core.reading.exact_numbers import COMMAND, Number, among_words, as_number, equal, numbers, plain
from analyses.core.reading.wording import LETTERS, is_prose

if TYPE_CHECKING:
    from probe import Item

Status: TypeAlias = Literal["correct", "wrong", "unparsed", "gold_unparsed"]
STATUSES: tuple[Status, ...] = ("correct", "wrong", "unparsed", "gold_unparsed")
Kind: TypeAlias = Literal["math", "number", "choice", "text", "exact", "function", "abstain"]
LOOP = re.compile(r"[0-9]{401}")


@dataclass(frozen=True)
class Grade:
    """Status of one response and the answer read from it (None if none was).

    Attributes:
        same: equal for answers that the grader calls equal to one another (to one item); None without an answer.
    """

    status: Status
    answer: str | None
    same: str | None = field(default=None, compare=False)

    @property
    def correct(self) -> float:
        """1, 0, or NaN where nothing could be graded."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.status, float("nan"))


@dataclass(frozen=True)
class Expected:
    """What a response to an item is held against.

    Attributes:
        golds: accepted answers, any of which counts; () where only an abstention is right.
        choices: the options of a multiple-choice item, named A, B, C ... in order.
        correct: index of the right choice, where it is known.
    """

    golds: tuple[str, ...]
    choices: tuple[str, ...] = ()
    correct: int | None = None

    @classmethod
    def of(cls, gold: Gold) -> Expected:
        """What is expected of a response to an item, or where a gold answer is given."""
        if isinstance(gold, str):
            return cls((gold,))
        return gold if isinstance(gold, cls) else cls(gold.golds, gold.choices, gold.correct)

    @property
    def letters(self) -> str | None:
        """The right letters of a multiple-choice item, or None where its gold names none."""
        if self.correct is not None:
            return LETTERS[self.correct]
        for gold in self.golds:
            by_text = [i for i, c in enumerate(self.choices) if wording.words(c) == wording.words(gold)]
            if len(by_text) == 1:
                return LETTERS[by_text[0]]
            named = wording.letters(gold)
            if named and all(n in LETTERS[: len(self.choices) or 10] for n in named):
                return named
        return None


Gold: TypeAlias = "str | Expected | Item"
"""A gold answer, what is expected of an item, or the item itself."""


def gold_text(gold: str) -> str:
    """The answer of a gold that is a worked solution: after `####`, in its last box; else the gold itself."""
    found = find(gold)
    return found.text.strip() if found.mark in ("hash", "box", "tag") else gold


def by_look(wanted: Expected) -> Kind:
    """What a gold answer looks like; whether `math` can be read as such is for `mathematics` to say."""
    if wanted.choices or (wanted.letters is not None and all(map(wording.letters, wanted.golds))):
        return "choice" if wanted.letters is not None else "text"
    if all(as_number(g) is not None for g in wanted.golds):
        return "number"
    if any(is_text_group(g) or (is_prose(g) and as_number(g) is None) for g in wanted.golds):
        return "text"
    return "math"


def is_text_group(gold: str) -> bool:
    r"""True for a gold that LaTeX itself calls words: `\text{Evelyn}`."""
    group = COMMAND.fullmatch(gold.strip().strip("$"))
    return group is not None and bool(re.search("[A-Za-z]{2}", group[1])) and as_number(gold) is None


def needs_mathematics(told: str) -> bool:
    """True where an answer to a gold number is no plain number: a formula, or words and formulas."""
    found = candidates(told)[0]
    return as_number(found.text) is None if found.marked else bool(re.search(r"[$\\]", found.text[-4000:]))


def graded_number(told: str, wanted: Expected) -> Grade:
    """A number against gold numbers."""
    number = marked_number(told)
    if number is None:
        return no_answer(told)
    for i, gold in enumerate(wanted.golds):
        right = gold_number(gold)
        if right is not None and equal(number, right):
            return Grade("correct", str(number.value), f"gold {i}")
    return Grade("wrong", str(number.value), str(number.value))


def no_answer(told: str) -> Grade:
    """Of another kind than its gold: wrong where the response marks it as its answer, else no answer at all."""
    found = find(told)
    said = " ".join(wording.words(found.text[:1000]))
    if not found.marked or found.mark == "statement" or len(found.text) > 1000 or LOOP.search(found.text) or not said:
        return Grade("unparsed", None)
    return Grade("wrong", said, said)


def gold_number(gold: str) -> Number | None:
    """The number a gold answer is, else the last it holds."""
    found = as_number(gold)
    if found is not None:
        return found
    listed = numbers(plain(gold))
    return listed[-1] if listed else None


def marked_number(response: str) -> Number | None:
    """The number a response marks as its answer; of one that marks nothing, the last; None where there is none."""
    for found in candidates(response):
        if found.mark == "none":
            listed = numbers(plain(found.text))
            return listed[-1] if listed else None
        number = next((n for t in (found.text, *wording.less(found.text)) if (n := as_number(t)) is not None), None)
        if number is None and found.mark != "box" and len(found.text) < 1000:
            number = among_words(found.text)
        if number is not None or found.mark != "statement":
            return number
    return None


def graded_choice(told: str, wanted: Expected) -> Grade:
    """A letter, or the text of a choice, against the right ones."""
    letters = wording.chosen(told, wanted.choices)
    if letters is None:
        return no_answer(told)
    right = {Expected((g,), wanted.choices, wanted.correct).letters for g in wanted.golds} | {wanted.letters}
    return Grade("correct" if letters in right else "wrong", letters, letters)


def graded_text(told: str, wanted: Expected) -> Grade:
    """Words against gold words; yes and true are one, no and false are one."""
    found = find(told)
    said = wording.words(found.text if found.marked else last_sentence(found.text))
    is_polar = any(wording.words(g)[0] in wording.POLAR and len(wording.words(g)) == 1 for g in wanted.golds)
    polar = wording.polar(found) if is_polar else None
    if not said or (is_polar and polar is None):
        return Grade("unparsed", None)
    for i, gold in enumerate(wanted.golds):
        if wording.says(found, gold):
            return Grade("correct", " ".join(wording.words(gold)), f"gold {i}")
    return Grade("wrong", polar or " ".join(said), polar or " ".join(said))


def graded_exact(told: str, wanted: Expected) -> Grade:
    """The text, white space normalised."""
    said = " ".join(told.split())
    right = said in {" ".join(g.split()) for g in wanted.golds}
    return Grade("correct" if right else "wrong", said, said)


def graded_answered(told: str, wanted: Expected) -> Grade:  # noqa: ARG001
    """An answer where only an abstention is right."""
    said = " ".join(wording.words(find(told).text)[:20])
    return Grade("wrong", said, said)
