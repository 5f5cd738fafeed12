r"""Answers in mathematics: read by math-verify, compared as mathematics. Runs in a worker process (`timed`).

math-verify reads LaTeX and decides equality; mended here is what it gets wrong: mixed numbers, thin spaces,
`1e3`, ratios taken for divisions, words beside a number, equations taken for their right side, digits of another
base, and powers too large to be worked out. Every answer also gets a `same`: a text that is equal for equal answers
(an exact fraction, else the value at fixed points), by which votes and clusters are counted.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from math_verify import parse, verify
from sympy import Basic, Interval, MatrixBase, Product, Rational, Sum, Symbol, Tuple, binomial, factorial
from sympy.core.relational import Equality, Relational
from sympy.polys.polyerrors import BasePolynomialError
from sympy.sets.sets import Set

from analyses.core.reading import answers, wording
from analyses.core.reading.answers import Found
from analyses.core.reading.exact_numbers import HALVES, SIGNS, among_words, as_number, equal, numbers, plain

logging.getLogger("math_verify").setLevel(logging.ERROR)  # a text that is no mathematics is an ordinary outcome
logging.getLogger("latex2sympy2_extended").setLevel(logging.ERROR)

LONGEST = 1000
"""Characters of an answer beyond which it is a loop, not an answer."""
LARGEST = 10_000
"""Decimal digits beyond which a power or factorial is not worked out (it still equals itself as text)."""
# What SymPy raises on what it cannot work out; anything else is a fault and ends the worker.
CANNOT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, AssertionError,
          MemoryError, BasePolynomialError)  # fmt: skip
RATIO = re.compile(r"[0-9)}]\s*(?::|\\colon|\\mathbin)\s*[0-9({]")
BASE = re.compile(r"[0-9A-Za-z]_\{?\s*(?:\\text\{)?([a-z0-9]+)\}?\}?\s*$")
FUNCTIONS = re.compile(r"(?<![\\A-Za-z])(pi|(?:arc)?(?:sin|cos|tan)h?|log|ln|exp|theta|alpha|beta)(?![A-Za-z])")


def told(text: str, marked: bool) -> tuple[str, Any] | None:
    """(`number`, Number) or (`math`, expressions) of a candidate answer; None where it is neither."""
    if len(text) > LONGEST and marked:
        return None
    if marked:
        number = next((n for t in (text, *wording.less(text)) if (n := as_number(t)) is not None), None)
        if number is not None:
            return "number", number
    found = _expressions(text, marked)
    return ("math", found) if found else None


def answer_of(response: str) -> tuple[str, str, Any] | None:
    """(text, kind, value) of a response's answer: of what it marks, else of its last statement that can be read."""
    for found in answers.candidates(response):
        if found.mark == "none":
            read = _unmarked(found)
        elif found.mark == "statement":
            read = _stated(found.text)
        else:
            value = told(found.text, True)
            read = None if value is None else (found.text, *value)
        if read is not None or found.mark not in ("none", "statement"):
            return read
    return None


def _stated(text: str) -> tuple[str, str, Any] | None:
    """What "the answer is ..." says: a number, a formula, or the formula or number among its words."""
    number = as_number(text)
    if number is not None:
        return text, "number", number
    formulas = re.findall(r"\$\$?(.+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", text[:LONGEST], re.DOTALL)
    if len(formulas) == 1:
        inside = next(part for part in formulas[0] if part)
        value = told(inside, True)
        return None if value is None else (inside, *value)
    if formulas or wording.is_prose(text):
        first = among_words(text) if not formulas else None
        if first is not None:
            return text, "number", first
        found = _expressions("The answer is: " + text, False)
        return (text, "math", found) if found else None
    value = told(text, True)
    return None if value is None else (text, *value)


def _unmarked(found: Found) -> tuple[str, str, Any] | None:
    """What a response says where it marks nothing: the last formula, unless a number comes after it in the text."""
    text = found.text[-4000:]
    if (
        len(text) < 100
        and re.search(r"[0-9\\(\[{^+*/]", text)
        and not re.search(r"[=$]", text)
        and not wording.is_prose(text)
    ):
        whole = told(text, True)  # nothing but an answer
        if whole is not None:
            return text, *whole
    formulas = list(re.finditer(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text, re.DOTALL))
    last = formulas[-1] if formulas else None
    after = numbers(plain(text[last.end() :])) if last else numbers(plain(text))
    if last is not None and not after:
        inside = next(g for g in last.groups() if g)
        value = told(inside.rpartition("=")[2] or inside, True) or told(inside, True)
        return None if value is None else (inside, *value)
    if after:
        return text, "number", after[-1]
    return None


def latex(text: str) -> str:
    """An answer as LaTeX that math-verify reads as it was meant."""
    for sign, fraction in HALVES.items():
        above, below = fraction.split("/")
        text = text.replace(sign, rf"\frac{{{above}}}{{{below}}}")
    text = text.translate(SIGNS).replace("**", "^").replace(r"\fbox", r"\boxed")
    text = wording.without_words(text)
    text = re.sub(r"(?<=[0-9])(?:\\[,!;: ]|[\u00a0\u2009\u202f~]|,\\!\s?|,\s?\\!)(?=[0-9]{3}(?![0-9]))", "", text)
    text = re.sub(r"(?<![0-9./])([0-9]+)\s+([0-9]+)\s?/\s?([0-9]+)(?![0-9./])", r"\1\\frac{\2}{\3}", text)
    text = re.sub(r"(?<![A-Za-z0-9.])([0-9]*\.?[0-9]+)[eE]([+-]?[0-9]+)(?![0-9.])", r"\1 \\times 10^{\2}", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*\(([^()]{0,200})\)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])|∞", r"\\infty ", text)
    text = text.replace("np.", "").replace("π", r"\pi ").replace("√", r"\sqrt ")
    text = re.sub(r"(?<=[0-9])\)\s*\((?=[0-9])", r") \\cdot (", text)
    return FUNCTIONS.sub(r"\\\1 ", text).strip()


@lru_cache(maxsize=4096)
def _expressions(text: str, marked: bool) -> tuple[Any, ...]:
    """What math-verify reads of an answer (or finds in a text), without what it could not make into mathematics."""
    if marked and (text.count("^") > 40 or text.count("{") > 200 or re.search(r"[0-9]{401}", text)):
        return ()
    given = f"\\boxed{{{latex(text)}}}" if marked else text[-2000:]
    found = parse(given, parsing_timeout=0)  # the time is limited from outside, see `timed`
    return tuple(found) if found and not isinstance(found[0], str) else ()


def spelled(text: str) -> str:
    """The text of an answer without blanks, dollar signs, sizes of brackets and names of one command: equal as text."""
    text = re.sub(
        r"\\left|\\right|\\displaystyle|\\[,!;: ]|\\boxed|\$|\s", "", wording.unwrapped(text.translate(SIGNS))
    )
    return re.sub(r"\\[dt]frac", r"\\frac", text).replace("{,}", ",").rstrip(".").casefold()


def are_equal(gold: str, answer: tuple[str, str, Any]) -> bool:
    """True where an answer is the gold answer: as text, as numbers, or as mathematics."""
    text, kind, value = answer
    if spelled(gold) == spelled(text) and spelled(gold):
        return True
    wanted = told(gold, True)
    if wanted is None:
        return False
    if wanted[0] == "number" and kind == "number":
        return equal(wanted[1], value)
    if _unlike(gold, text):
        return False
    left, right = (_sympy(*one) for one in (wanted, (kind, value)))
    if any(digits(e) > LARGEST for e in (*left, *right) if isinstance(e, Basic)):
        return False
    return bool(verify(list(left), list(right), timeout_seconds=0))


def _sympy(kind: str, value: Any) -> tuple[Any, ...]:
    return (Rational(value.value.numerator, value.value.denominator),) if kind == "number" else tuple(value)


def _unlike(gold: str, text: str) -> bool:
    """True for two answers that math-verify would call equal and that are not: by their forms."""
    ratios = [bool(RATIO.search(t)) for t in (gold, text)]
    if ratios[0] != ratios[1] and not re.search(r"frac|/", text if ratios[0] else gold):
        return True  # 2:1 is no 2; it may be written 2/1
    bases = [BASE.search(t) for t in (gold, text)]
    if all(bases) and len({b[1] for b in bases if b}) > 1 and all(t[:1].isdigit() for t in (gold, text)):
        return True
    sides = [_equation(t) for t in (gold, text)]
    return sides[0] != sides[1]


def _equation(text: str) -> bool:
    """True for an equation that says more than the value of one symbol: `x^2 - 2x = 0`, not `x = 3`."""
    left, sign, _ = re.sub(r"\\(?:le|ge|ne)q?|[<>!]=", "", text).partition("=")
    return bool(sign) and not re.fullmatch(r"[\s$\\({]*\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([^()=]*\))?[\s]*", left)


@lru_cache(maxsize=4096)
def digits(expression: Basic) -> float:
    """About how many decimal digits the largest number in an expression has once it is worked out.

    Infinite where its terms are too many: a power of a sum, a sum or product over a long range.
    """
    sizes = [digits(part) for part in expression.args if isinstance(part, Basic)]
    own = 0.0
    if expression.is_Integer or expression.is_Rational:
        own = float(len(str(expression))) if abs(getattr(expression, "p", 0)).bit_length() < 10**5 else float("inf")
    elif expression.is_Pow and not expression.free_symbols:
        own = max(sizes[0], 1.0) * _value(expression.args[1])
    elif expression.is_Pow and expression.args[0].args and not expression.args[1].free_symbols:
        own = float("inf") if _value(expression.args[1]) > 1000 else 0.0
    elif isinstance(expression, factorial | binomial):
        own = _value(expression.args[0]) * max(sizes[0], 1.0)
    elif isinstance(expression, Sum | Product):
        ranges = [_value(end) for limit in expression.limits for end in limit[1:] if not end.free_symbols]
        own = float("inf") if any(10**4 < r < float("inf") for r in ranges) else 0.0
    return max([own, *sizes])


def _value(number: Basic) -> float:
    """Size of an exponent, infinite where it is itself too large to write."""
    if digits(number) > 12:
        return float("inf")
    try:
        return abs(complex(number.evalf(6)))  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    except CANNOT:
        return float("inf")


def same(answer: tuple[str, str, Any]) -> str:
    """A text that is equal for equal answers: an exact fraction, else values at fixed points, else the spelling."""
    text, kind, value = answer
    if kind == "number":
        return str(value.value)
    try:
        if digits(value[0]) <= LARGEST:
            return _print(value[0])
    except CANNOT:
        pass
    return spelled(text)


def _print(part: Any) -> str:
    if isinstance(part, Equality) and isinstance(part.lhs, Symbol):
        part = part.rhs  # x = 3 is the answer 3
    if isinstance(part, Interval):
        ends = ("(" if part.left_open else "[", ")" if part.right_open else "]")
        return f"{ends[0]}{_print(part.start)},{_print(part.end)}{ends[1]}"
    if isinstance(part, MatrixBase):
        return f"{part.shape}" + ";".join(_print(cell) for cell in part.flat())
    if isinstance(part, Set):
        return type(part).__name__ + "{" + ";".join(sorted(map(_print, part.args))) + "}"
    if isinstance(part, Tuple | Relational):
        return type(part).__name__ + "(" + ",".join(map(_print, part.args)) + ")"
    done = part.doit()
    if done.is_Rational:
        return str(done)
    # Between 1/2 and 3/2: exponentials of them neither vanish nor overflow, which would make unlike answers the same.
    points = {
        s: Rational(2**23 + int(hashlib.sha256(str(s).encode()).hexdigest()[:6], 16), 2**24) for s in done.free_symbols
    }
    value = complex(done.subs(points).evalf(15))
    return f"{value.real:.9g}" + (f"{value.imag:+.9g}i" if abs(value.imag) > 1e-12 else "")


def cut(pattern: str, text: str) -> str | None:
    """The first group of a pattern's last match, or None; here because a pattern can run for ever."""
    found = list(re.finditer(pattern, text, re.MULTILINE))
    return found[-1].group(1) if found else None


def _ends_in(found: Found, gold: str) -> bool:
    """True where an unmarked text ends in the gold answer's own formula."""
    end = found.text.rstrip(" .\n")
    return not found.marked and end.endswith((f"${gold.strip()}$", rf"\({gold.strip()}\)", rf"\[{gold.strip()}\]"))


def _unread(found: Found) -> tuple[str, str | None, str | None]:
    """A marked answer that is no mathematics is an answer all the same, and not the right one; a loop is none."""
    if found.mark in ("none", "statement") or len(found.text) > LONGEST or re.search(r"[0-9]{401}", found.text):
        return "unparsed", None, None
    said = " ".join(wording.words(found.text))
    return ("wrong", said, said) if said else ("unparsed", None, None)


def reads(gold: str) -> bool:
    """True where a gold answer can be read as mathematics."""
    return told(gold, True) is not None


def read(text: str, cut: bool) -> tuple[str, str] | None:
    """(answer, same) of a response whose gold nobody knows, or of what a pattern cut from one; None: none is read."""
    if cut:
        value = told(text, True)
        answer = None if value is None else (text, *value)
    else:
        answer = answer_of(text)
    if answer is not None:
        _, kind, value = answer
        return str(value.value if kind == "number" else value[0]), same(answer)
    said = " ".join(wording.words(text)) if cut else _unread(answers.find(text))[1]
    return (said, said) if said else None


def grade(response: str, golds: Sequence[str]) -> tuple[str, str | None, str | None]:
    """(status, answer, same) of a response against golds that can be read, any of which counts."""
    found = answers.find(response)
    for number, gold in enumerate(golds):
        if spelled(gold) and (spelled(found.text) == spelled(gold) or _ends_in(found, gold)):
            return "correct", gold.strip(), f"gold {number}"
    answer = answer_of(response)
    if answer is None:
        return _unread(found)
    _, kind, value = answer
    shown = str(value.value if kind == "number" else value[0])
    for number, gold in enumerate(golds):
        if are_equal(gold, answer):
            return "correct", shown, f"gold {number}"
    return "wrong", shown, same(answer)
