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
from dataclasses import dataclass, replace

from analyses.core.reading import plain_graders as plainly
from analyses.core.reading import timed, wording
from analyses.core.reading.answers import BOXED, find
from analyses.core.reading.plain_graders import STATUSES, Expected, Gold, Grade, Kind, Status
from analyses.core.reading.wording import is_prose
from probe.errors import InputError

__all__ = [
    "NAMES",
    "STATUSES",
    "Expected",
    "Gold",
    "Grade",
    "Grader",
    "Kind",
    "Status",
    "grader",
    "has_code",
    "is_boxed",
    "read",
]

NAMES = ("auto", "math", "number", "choice", "text", "exact")
ABSTAINS = (
    r"(?i)\b(?:i (?:do not|don't|cannot|can't) (?:know|answer|tell)|unanswerable|not answerable|no answer"
    r"|(?:cannot|can't|can not) be (?:answered|determined|known)|not enough information|insufficient information"
    r"|impossible to (?:answer|tell|determine|know))\b"
)
"""Usual phrases of an abstention."""
CODE = re.compile(r"```\s*(?:python|py)\b|^\s*(?:def \w+\(|import \w+|from \w+ import |print\()", re.MULTILINE)


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
            grade = Grade(*result) if result is not None else plainly.no_answer(text)  # over the limit of time
            for number in numbers_of:
                found[number] = grade
        return [g for g in found if g is not None]

    def kinds(self, golds: Sequence[Gold]) -> list[Kind | None]:
        """What each gold is graded as, in order; None where this grader cannot read it."""
        return self._kinds(self._expected(golds))

    def _kinds(self, wanted: Sequence[Expected]) -> list[Kind | None]:
        found: list[Kind | None] = [self._kind(g) for g in wanted]
        asked = list(dict.fromkeys(g for w, k in zip(wanted, found, strict=True) if k == "math" for g in w.golds))
        can = dict(zip(asked, timed.done([["reads", g] for g in asked]), strict=True))

        def otherwise(of: Expected) -> Kind | None:
            return "text" if self.name == "auto" and all(wording.words(g) for g in of.golds) else None

        return [
            k if k != "math" or all(can[g] or plainly.is_text_group(g) for g in w.golds) else otherwise(w)
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
            return plainly.by_look(wanted)
        can = {
            "exact": True,
            "text": all(wording.words(g) for g in wanted.golds),
            "choice": wanted.letters is not None,
            "number": all(plainly.gold_number(g) is not None for g in wanted.golds),
            "math": not any(is_prose(g) for g in wanted.golds),
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
            return None if not all(map(plainly.is_text_group, wanted.golds)) else plainly.graded_text(told, wanted)
        if kind == "number" and self.name == "auto" and plainly.needs_mathematics(told):
            return None
        if kind == "function":
            return self._called(told, wanted)
        by: dict[str, Callable[[str, Expected], Grade]] = {
            "number": plainly.graded_number,
            "choice": plainly.graded_choice,
            "text": plainly.graded_text,
            "exact": plainly.graded_exact,
            "abstain": plainly.graded_answered,
        }
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

    def _gold(self, gold: str) -> str:
        """A gold as its grader reads it; mathematics reads prose by its last number, never as a product of letters."""
        if self.name == "exact":
            return gold
        text = plainly.gold_text(gold)
        number = plainly.gold_number(text) if self.name == "math" and is_prose(text) else None
        return text if number is None else str(number.value)

    def _expected(self, golds: Sequence[Gold]) -> list[Expected]:
        """Golds as their graders read them: cut by the pattern where it matches, of a worked solution its answer."""
        wanted = [Expected.of(g) for g in golds]
        cut = self._cut([g for w in wanted for g in w.golds])
        read = {g: self._gold(c or g) for g, c in cut.items()}
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


def read(texts: Sequence[str], pattern: str | None = None) -> list[Grade]:
    """Answers of responses whose gold answer nobody knows, as `unparsed` or (status `wrong`, which says nothing here).

    What a response marks as its answer (or the pattern's last match), else its last formula or number; equal ones
    share `same`: as mathematics, else as words.
    """
    if pattern is not None:
        _compiled(pattern, groups=1)
        cuts = timed.done([["cut", pattern, t] for t in texts])
        found = iter(timed.done([["read", c, True] for c in cuts if c]))
        read_of = [next(found) if c else None for c in cuts]
    else:
        read_of = timed.done([["read", t, False] for t in texts])
    return [Grade("unparsed", None) if r is None else Grade("wrong", *r) for r in read_of]


def is_boxed(text: str) -> bool:
    r"""True where the response boxes an answer (`\boxed` or `\fbox`)."""
    return bool(BOXED.search(text))


def has_code(text: str) -> bool:
    """True where the response holds Python (a fenced block, or a line that starts like a statement)."""
    return bool(CODE.search(text))
