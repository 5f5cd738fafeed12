r"""Is a response correct, wrong, or without an answer that can be read? Grades.

Whether an item counts depends on its gold answer alone: a gold that no grader can read makes every response to its
item `gold_unparsed`, whatever it says; a response whose answer cannot be read is `unparsed`. Both are counted apart
and never pass for wrong. Nothing here imports torch; mathematics is graded in worker processes under a limit of time
(`timed`), where math-verify and SymPy are imported. A response over the limit is `unparsed`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from analyses.core.reading import timed, wording
from analyses.core.reading.answers import BOXED, candidates, find, last_sentence
from analyses.core.reading.exact_numbers import COMMAND, Number, among_words, as_number, equal, numbers, plain
from analyses.core.reading.votes import majority, pass_at_k, pass_curve
from analyses.core.reading.wording import LETTERS, is_prose
from probe.errors import InputError

if TYPE_CHECKING:
    from probe import Item

Status: TypeAlias = Literal["correct", "wrong", "unparsed", "gold_unparsed"]
STATUSES: tuple[Status, ...] = ("correct", "wrong", "unparsed", "gold_unparsed")
Kind: TypeAlias = Literal["math", "number", "choice", "text", "exact", "function", "abstain"]
NAMES = ("auto", "math", "number", "choice", "text", "exact")
ABSTAINS = (
    r"(?i)\b(?:i (?:do not|don't|cannot|can't) (?:know|answer|tell)|unanswerable|not answerable|no answer"
    r"|(?:cannot|can't|can not) be (?:answered|determined|known)|not enough information|insufficient information"
    r"|impossible to (?:answer|tell|determine|know))\b"
)
"""Usual phrases of an abstention."""
LOOP = re.compile(r"[0-9]{401}")
CODE = re.compile(r"```\s*(?:python|py)\b|^\s*(?:def \w+\(|import \w+|from \w+ import |print\()", re.MULTILINE)


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
    def of(cls, item: Item) -> Expected:
        """What an item expects."""
        return cls(item.golds, item.choices, item.correct)

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


Gold: TypeAlias = "str | Expected"


@dataclass(frozen=True)
class Grader:
    """Grades responses: `grader(...)(response, gold)`, or many pairs at once, which costs less.

    Attributes:
        name: of the grader, `auto` for one chosen per item by its gold.
        pattern: where the answer stands; None: wherever the response marks it.
        abstain: what an abstention says; None: no item may be abstained from.
        function: the grader called `module:function`.
    """

    name: str
    pattern: re.Pattern[str] | None = None
    abstain: re.Pattern[str] | None = None
    function: Callable[[str, str], bool | None] | None = None

    def __call__(self, response: str, gold: Gold) -> Grade:
        """The grade of one response."""
        return self.many([(response, gold)])[0]

    def many(self, pairs: Sequence[tuple[str, Gold]]) -> list[Grade]:
        """Grades of (response, gold) pairs, in order."""
        expected = self._expected([g for _, g in pairs])
        once = list(dict.fromkeys(expected))
        kinds = dict(zip(once, self._kinds(once), strict=True))
        texts = self._cut([r for r, _ in pairs])
        found: list[Grade | None] = []
        jobs: dict[tuple[str, tuple[str, ...]], list[int]] = {}
        for number, ((response, _), wanted) in enumerate(zip(pairs, expected, strict=True)):
            kind, told = kinds[wanted], texts[response]
            done = self._at_once(told, wanted, kind)
            if done is None:
                assert told is not None
                jobs.setdefault((told, wanted.golds), []).append(number)
            found.append(done)
        results = timed.done([["grade", text, golds] for text, golds in jobs])
        for ((text, _), numbers_of), result in zip(jobs.items(), results, strict=True):
            grade = Grade(*result) if result is not None else _no_answer(text)  # over the limit of time
            for number in numbers_of:
                found[number] = grade
        return [g for g in found if g is not None]

    def kinds(self, golds: Sequence[Gold]) -> list[Kind | None]:
        """What each gold is graded as, in order; None where this grader cannot read it."""
        return self._kinds(self._expected(golds))

    def _kinds(self, wanted: Sequence[Expected]) -> list[Kind | None]:
        found = [self._kind(g) for g in wanted]
        asked = list(dict.fromkeys(g for w, k in zip(wanted, found, strict=True) if k == "math" for g in w.golds))
        can = dict(zip(asked, timed.done([["reads", g] for g in asked]), strict=True))
        other: Kind | None = "text" if self.name == "auto" else None
        return [
            k if k != "math" or all(can[g] or _is_text_group(g) for g in w.golds) else other
            for w, k in zip(wanted, found, strict=True)
        ]

    def _kind(self, wanted: Expected) -> Kind | None:
        """The kind by the look of the gold; `math` is still to be read by who can."""
        if not wanted.golds and wanted.correct is None:
            return "abstain" if self.abstain else None
        if any(not g.strip() for g in wanted.golds):
            return None
        if self.function is not None:
            return "function"
        if self.name == "auto":
            return _by_look(wanted)
        can = {
            "exact": True,
            "text": all(wording.words(g) for g in wanted.golds),
            "choice": wanted.letters is not None,
            "number": all(gold_number(g) is not None for g in wanted.golds),
            "math": not any(is_prose(g) and as_number(g) is None for g in wanted.golds),
        }
        return self.name if can[self.name] else None  # pyright: ignore[reportReturnType]

    def _at_once(self, told: str | None, wanted: Expected, kind: Kind | None) -> Grade | None:
        """The grade where it takes no mathematics; None where it does."""
        if kind is None:
            return Grade("gold_unparsed", None)
        if told is None or not told.strip():
            return Grade("unparsed", None)
        if self.abstain is not None and self.abstain.search(find(told).text):
            return Grade("correct" if kind == "abstain" else "wrong", "(abstains)", "abstains")
        if kind == "math":
            return None if not all(map(_is_text_group, wanted.golds)) else _text(told, wanted)
        if kind == "number" and self.name == "auto" and _needs_mathematics(told):
            return None
        if kind == "function":
            return self._called(told, wanted)
        by: dict[str, Callable[[str, Expected], Grade]] = {
            "number": _number, "choice": _choice, "text": _text, "exact": _exact, "abstain": _answered,
        }  # fmt: skip
        return by[kind](told, wanted)

    def _called(self, told: str, wanted: Expected) -> Grade:
        assert self.function is not None
        verdicts = [self.function(told, gold) for gold in wanted.golds]
        if all(v is None for v in verdicts):
            return Grade("unparsed", None)
        right = any(verdicts)
        return Grade("correct" if right else "wrong", told, "correct" if right else told)

    def _cut(self, texts: Sequence[str]) -> dict[str, str | None]:
        """The part of each text that the pattern names; all of it without a pattern, None without a match."""
        if self.pattern is None:
            return {t: t for t in texts}
        once = list(dict.fromkeys(texts))
        return dict(zip(once, timed.done([["cut", self.pattern.pattern, t] for t in once]), strict=True))

    def _expected(self, golds: Sequence[Gold]) -> list[Expected]:
        """Golds as their graders read them: cut by the pattern where it matches, of a worked solution its answer."""
        wanted = [g if isinstance(g, Expected) else Expected((g,)) for g in golds]
        cut = self._cut([g for w in wanted for g in w.golds])
        read = {g: c or g if self.name == "exact" else _gold_text(c or g) for g, c in cut.items()}
        return [replace(w, golds=tuple(read[g] for g in w.golds)) for w in wanted]


def grader(name: str = "auto", pattern: str | None = None, abstain: str | None = None) -> Grader:
    r"""The grader called ``name``.

    Args:
        name: `auto` (per item by its gold: `choice` for letters and items with choices, `number` for a number, `math`
            for what mathematics can read, else `text`), `math` (math-verify: LaTeX and expressions, compared as
            mathematics), `number` (the number a response marks as its answer, else its last one; exact fractions),
            `choice` (a letter, or the text of a choice), `text` (words: case, punctuation and a leading article do
            not count, lists are in any order), `exact` (the text, white space normalised), or `module:function`,
            called with response and gold, returning True, False or None (no answer can be read).
        pattern: regular expression whose last match holds the answer in its first group, for example
            `ans (\S+)\s*$`; a response without a match is unparsed. Applied to gold where it matches.
        abstain: regular expression of an abstention, `usual` for the usual phrases: then items without a gold answer
            count, and an abstention is right there and wrong elsewhere.

    Raises:
        InputError: an unknown name, a function that cannot be imported, a pattern that is none or has no group.
    """
    cut = _compiled(pattern, groups=1) if pattern is not None else None
    silent = _compiled(ABSTAINS if abstain == "usual" else abstain, groups=0) if abstain else None
    if ":" in name:
        return Grader(name, cut, silent, _imported(name))
    if name not in NAMES:
        raise InputError(f"grader {name!r}; expected one of {list(NAMES)} or module:function")
    return Grader(name, cut, silent)


def _compiled(pattern: str, groups: int) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups < groups:
        raise InputError(f"pattern {pattern!r} has no group; put the answer in parentheses")
    return compiled


def _imported(name: str) -> Callable[[str, str], bool | None]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"grader {name!r} cannot be imported: {error}") from error


def _gold_text(gold: str) -> str:
    """The answer of a gold that is a worked solution: after `####`, in its last box; else the gold itself."""
    found = find(gold)
    return found.text.strip() if found.mark in ("hash", "box", "tag") else gold


def _by_look(wanted: Expected) -> Kind:
    if wanted.choices or (wanted.letters is not None and all(map(wording.letters, wanted.golds))):
        return "choice" if wanted.letters is not None else "text"
    if all(as_number(g) is not None for g in wanted.golds):
        return "number"
    if any(_is_text_group(g) or (is_prose(g) and as_number(g) is None) for g in wanted.golds):
        return "text"
    return "math"


def _is_text_group(gold: str) -> bool:
    r"""True for a gold that LaTeX itself calls words: `\text{Evelyn}`."""
    group = COMMAND.fullmatch(gold.strip().strip("$"))
    return group is not None and bool(re.search("[A-Za-z]{2}", group[1])) and as_number(gold) is None


def _needs_mathematics(told: str) -> bool:
    """True where an answer to a gold number is no plain number: a formula, or words and formulas."""
    found = candidates(told)[0]
    return as_number(found.text) is None if found.marked else bool(re.search(r"[$\\]", found.text[-4000:]))


def _number(told: str, wanted: Expected) -> Grade:
    number = marked_number(told)
    if number is None:
        return _no_answer(told)
    for i, gold in enumerate(wanted.golds):
        right = gold_number(gold)
        if right is not None and equal(number, right):
            return Grade("correct", str(number.value), f"gold {i}")
    return Grade("wrong", str(number.value), str(number.value))


def _no_answer(told: str) -> Grade:
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
        number = as_number(found.text) or as_number(wording.without_words(found.text))
        if number is None and found.mark != "box" and len(found.text) < 1000:
            number = among_words(found.text)
        if number is not None or found.mark != "statement":
            return number
    return None


def _choice(told: str, wanted: Expected) -> Grade:
    letters = wording.chosen(told, wanted.choices)
    if letters is None:
        return _no_answer(told)
    right = {Expected((g,), wanted.choices, wanted.correct).letters for g in wanted.golds} | {wanted.letters}
    return Grade("correct" if letters in right else "wrong", letters, letters)


def _text(told: str, wanted: Expected) -> Grade:
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


def _exact(told: str, wanted: Expected) -> Grade:
    said = " ".join(told.split())
    right = said in {" ".join(g.split()) for g in wanted.golds}
    return Grade("correct" if right else "wrong", said, said)


def _answered(told: str, wanted: Expected) -> Grade:  # noqa: ARG001
    """An answer where only an abstention is right."""
    said = " ".join(wording.words(find(told).text)[:20])
    return Grade("wrong", said, said)


def is_boxed(text: str) -> bool:
    r"""True where the response boxes an answer (`\boxed` or `\fbox`)."""
    return bool(BOXED.search(text))


def has_code(text: str) -> bool:
    """True where the response holds Python (a fenced block, or a line that starts like a statement)."""
    return bool(CODE.search(text))
