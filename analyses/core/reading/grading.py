"""Is a response correct, wrong, or without an answer that can be read? Grades, and counts of correct samples.

A response whose answer cannot be read is `unparsed`, and a gold answer that cannot be read makes every response
to its item `gold_unparsed`: both are counted apart and never pass for wrong. Nothing here imports torch;
math-verify (and with it SymPy) is imported when mathematics is graded.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from math import comb
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from probe.errors import InputError

Status: TypeAlias = Literal["correct", "wrong", "unparsed", "gold_unparsed"]
STATUSES: tuple[Status, ...] = ("correct", "wrong", "unparsed", "gold_unparsed")
BOXED = re.compile(r"\\boxed\b|\\fbox\b")
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
CODE = re.compile(r"```\s*(?:python|py)\b|^\s*(?:def \w+\(|import \w+|from \w+ import |print\()", re.MULTILINE)
COMMAND = re.compile(r"\\(?:text|mathrm|mbox|operatorname|mathbf)\s*\{[^{}]*\}|\\[A-Za-z]+")
PROSE = re.compile(r"(?:^|(?<=\s))[A-Za-z]{2,}(?=[\s:,.;]|$)")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*-?\d+)?")


@dataclass(frozen=True)
class Grade:
    """Status of one response and the answer read from it (None if none was)."""

    status: Status
    answer: str | None

    @property
    def correct(self) -> float:
        """1, 0, or NaN where nothing could be graded."""
        return {"correct": 1.0, "wrong": 0.0}.get(self.status, float("nan"))


Grader: TypeAlias = Callable[[str, str], Grade]


def grader(name: str, pattern: str | None = None) -> Grader:
    r"""The function (response, gold) -> Grade called ``name``.

    Args:
        name: `math` (math-verify: LaTeX and expressions, compared as mathematics), `number` (the last number,
            compared as exact fractions), `exact` (the text, white space normalised), or `module:function`, called
            with response and gold and returning True, False or None (no answer can be read).
        pattern: regular expression whose last match holds the answer in its first group, for example
            `ans (\S+)\s*$`; a response without a match is unparsed. Applied to gold where it matches.

    Raises:
        InputError: an unknown name, a function that cannot be imported, a pattern that is none or has no group.
    """
    cut = _cutter(pattern)
    if ":" in name:
        return _called(_imported(name), cut)
    graders: dict[str, Callable[[str, str], Grade]] = {"math": _math, "number": _number, "exact": _exact}
    if name not in graders:
        raise InputError(f"grader {name!r}; expected one of {list(graders)} or module:function")
    grade = graders[name]

    def graded(response: str, gold: str) -> Grade:
        found = cut(response)
        if found is None:
            return Grade("unparsed", None)
        return grade(found, cut(gold) or gold)

    return graded


def _cutter(pattern: str | None) -> Callable[[str], str | None]:
    if pattern is None:
        return lambda text: text
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is not a regular expression: {error}") from error
    if compiled.groups < 1:
        raise InputError(f"pattern {pattern!r} has no group; put the answer in parentheses")

    def cut(text: str) -> str | None:
        found = list(compiled.finditer(text))
        return found[-1].group(1) if found else None

    return cut


def _imported(name: str) -> Callable[[str, str], bool | None]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"grader {name!r} cannot be imported: {error}") from error


def _called(function: Callable[[str, str], bool | None], cut: Callable[[str], str | None]) -> Grader:
    def graded(response: str, gold: str) -> Grade:
        found = cut(response)
        verdict = None if found is None else function(found, gold)
        if verdict is None:
            return Grade("unparsed", None)
        return Grade("correct" if verdict else "wrong", found)

    return graded


def _exact(response: str, gold: str) -> Grade:
    found = " ".join(response.split())
    if not found:
        return Grade("unparsed", None)
    return Grade("correct" if found == " ".join(gold.split()) else "wrong", found)


def _number(response: str, gold: str) -> Grade:
    wanted, found = last_number(gold), last_number(response)
    if wanted is None:
        return Grade("gold_unparsed", None if found is None else str(found))
    if found is None:
        return Grade("unparsed", None)
    return Grade("correct" if found == wanted else "wrong", str(found))


def last_number(text: str) -> Fraction | None:
    """The last number of a text as an exact fraction (thousands commas, decimals, a/b), or None."""
    found = NUMBER.findall(text)
    if not found:
        return None
    try:
        return Fraction(found[-1].replace(",", "").replace(" ", ""))
    except ZeroDivisionError:
        return None


def _math(response: str, gold: str) -> Grade:
    box = BOX.findall(response)
    told = box[-1] if box else response
    if told.split() == gold.split() and told.strip():
        return Grade("correct", gold.strip())  # equal as text, whether or not it can be read as mathematics
    wanted, found = _parsed(gold, True), _parsed(response, False)
    answer = str(found[-1]) if found else None
    if not wanted:
        return Grade("gold_unparsed", answer)
    if not found:
        return Grade("unparsed", None)
    return Grade("correct" if _verified(tuple(wanted), tuple(found)) else "wrong", answer)


@lru_cache(maxsize=65536)
def _parsed(text: str, is_gold: bool) -> tuple[Any, ...]:
    """What math-verify reads; gold is read as LaTeX, which benchmark files hold without delimiters, unless it is prose.

    Boxed, the words of `ans 22` would be a product of their letters, and every response to it wrong.
    """
    from math_verify import parse

    _quiet()
    limits: dict[str, Any] = _limits("parsing_timeout")
    if is_gold and not is_prose(text):
        found = parse(f"\\boxed{{{text}}}", **limits)
        if found:
            return tuple(found)
    return tuple(parse(text, **limits))


def is_prose(text: str) -> bool:
    """True where words stand in a text beside or in place of mathematics (LaTeX commands and text groups aside)."""
    return bool(PROSE.search(COMMAND.sub(" ", text)))


def _verified(wanted: tuple[Any, ...], found: tuple[Any, ...]) -> bool:
    from math_verify import verify

    return bool(verify(list(wanted), list(found), **_limits("timeout_seconds")))


def _limits(name: str) -> dict[str, Any]:
    """math-verify's time limits use signals, which only the main thread may set (a dashboard runs others)."""
    return {} if threading.current_thread() is threading.main_thread() else {name: None}


@cache
def _quiet() -> None:
    """A text that is no mathematics is an ordinary outcome here, not worth math-verify's warning each time."""
    import logging

    logging.getLogger("math_verify").setLevel(logging.ERROR)


def is_boxed(text: str) -> bool:
    r"""True where the response boxes an answer (`\boxed` or `\fbox`)."""
    return bool(BOXED.search(text))


def has_code(text: str) -> bool:
    """True where the response holds Python (a fenced block, or a line that starts like a statement)."""
    return bool(CODE.search(text))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is correct, 1 - C(n-c, k) / C(n, k); NaN where k > n."""
    if not 0 <= correct <= n or k < 1:
        raise InputError(f"pass@{k} of {correct} correct in {n}; expected 0 <= correct <= n and k >= 1")
    return float("nan") if k > n else 1.0 - comb(n - correct, k) / comb(n, k)


def majority(answers: Sequence[str | None], is_correct: Sequence[float], k: int, seed: int, draws: int = 200) -> float:
    """Chance that the most frequent readable answer of k of the samples is correct; ties count by their share.

    Over all samples where k is their number, else averaged over ``draws`` seeded subsets; NaN where k > n.
    Answers are one cluster when their normalised texts are equal; unreadable ones vote for nothing.
    """
    n = len(answers)
    if k > n:
        return float("nan")
    if k == n:
        return _vote([*range(n)], answers, is_correct)
    rng = np.random.default_rng(seed)
    return float(np.mean([_vote(rng.permutation(n)[:k].tolist(), answers, is_correct) for _ in range(draws)]))


def _vote(chosen: Sequence[int], answers: Sequence[str | None], is_correct: Sequence[float]) -> float:
    votes = Counter(a for i in chosen if (a := answers[i]) is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    right = {answers[i] for i in chosen if is_correct[i] == 1.0}
    tied = [a for a, count in votes.items() if count == most]
    return sum(a in right for a in tied) / len(tied)


def pass_curve(counts: Float[np.ndarray, "item 2"], ks: Sequence[int]) -> Float[np.ndarray, "item k"]:
    """pass@k per item from (samples, correct) counts."""
    return np.array([[pass_at_k(int(n), int(c), k) for k in ks] for n, c in counts]).reshape(len(counts), len(ks))
