"""Changes of a question that should not change whether a model can answer it; seeded, one random stream per item.

preamble    a neutral sentence before the question
paraphrase  the question inside another instruction
irrelevant  a true sentence that does not matter, before the last sentence
typos       letters swapped inside a few long words (numbers and mathematics are left alone)
numbers     numbers replaced so that the answer, recomputed, is another one (items that say how: `values` and `ops`, or
            `Equation`); an answer known by heart is then wrong
options     the options of a multiple-choice question in another order, the answer's letter with them

A perturbation that does not apply to an item gives None: the item is then not measured under it. Never imports torch.
"""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeAlias

from probe.errors import InputError
from probe.prompts import Item

Perturbation: TypeAlias = Callable[[Item, random.Random, "Texts"], Item | None]

PREAMBLES = (
    "Here is a question from a worksheet.",
    "Please read the following carefully.",
    "Below you find a short exercise.",
)
PARAPHRASES = (
    "Work out the following problem: {question}",
    "{question}\nWhat is the answer?",
    "Consider this: {question} Find the result.",
)
IRRELEVANT = (
    "The weather was mild that day.",
    "A clock on the wall showed noon.",
    "There was a green door nearby.",
)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w]|\.\d)")
OPTION = re.compile(r"\(([A-E])\)\s*(.*?)(?=\s*\([A-E]\)|\s*$)", re.DOTALL)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=\S)")
TRIES = 100


@dataclass(frozen=True)
class Texts:
    """Sentences the perturbations draw from; a model of a small vocabulary needs its own.

    `largest` bounds new numbers and every intermediate result of `values` and `ops` (None: 10 x the old largest).
    """

    preambles: Sequence[str] = PREAMBLES
    paraphrases: Sequence[str] = PARAPHRASES
    irrelevant: Sequence[str] = IRRELEVANT
    largest: int | None = None


def perturbed(item: Item, name: str, texts: Texts, seed: int = 0) -> Item | None:
    """The item under the perturbation ``name``, or None where it does not apply; the id stays.

    Raises:
        InputError: an unknown name.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"no perturbation {name!r}; known: {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[name](item, random.Random(f"{seed}/{name}/{item.id}"), texts)


def _preamble(item: Item, rng: random.Random, texts: Texts) -> Item:
    return replace(item, prompt=f"{rng.choice(texts.preambles)} {item.prompt}")


def _paraphrase(item: Item, rng: random.Random, texts: Texts) -> Item:
    return replace(item, prompt=rng.choice(texts.paraphrases).replace("{question}", item.prompt))


def _irrelevant(item: Item, rng: random.Random, texts: Texts) -> Item | None:
    sentences = SENTENCE_END.split(item.prompt)
    if len(sentences) < 2:
        return None
    return replace(item, prompt=" ".join([*sentences[:-1], rng.choice(texts.irrelevant), sentences[-1]]))


def _typos(item: Item, rng: random.Random, texts: Texts) -> Item | None:  # noqa: ARG001
    """Two inner letters swapped in one word of eight (at least one) among words of five letters or more."""
    found = list(re.finditer(r"(?<![\\\w{$])[A-Za-z]{5,}(?![\w}])", item.prompt))
    changeable = [m for m in found if any(a != b for a, b in zip(m[0][1:-2], m[0][2:-1], strict=True))]
    if not changeable:
        return None
    chosen = rng.sample(changeable, max(1, len(changeable) // 8))
    text = list(item.prompt)
    for word in chosen:
        places = [i for i in range(1, len(word[0]) - 2) if word[0][i] != word[0][i + 1]]
        at = word.start() + rng.choice(places)
        text[at], text[at + 1] = text[at + 1], text[at]
    return replace(item, prompt="".join(text))


def _numbers(item: Item, rng: random.Random, texts: Texts) -> Item | None:
    """New numbers in the question's own places, and the answer they have."""
    written = [Fraction(n) for n in NUMBER.findall(item.prompt)]
    if "values" in item.meta and "ops" in item.meta:
        return _chain(item, written, rng, texts)
    equation = item.meta.get("Equation")
    if not isinstance(equation, str):
        return None
    used = [Fraction(n) for n in re.findall(r"\d+(?:\.\d+)?", equation)]
    if any(written.count(n) != 1 for n in used):  # a number written twice or not at all: its role is not known
        return None
    old = evaluated(equation)
    if old is None:
        return None
    for _ in range(TRIES):
        new = {n: _other(n, rng, texts) for n in written}
        swapped = re.sub(r"\d+(?:\.\d+)?", lambda m: str(new[Fraction(m[0])]), equation)  # noqa: B023
        value = evaluated(swapped)
        if value is not None and value != old and value > 0 and (value.denominator == 1) == (old.denominator == 1):
            return _renumbered(item, [new[n] for n in written], value)
    return None


def _chain(item: Item, written: list[Fraction], rng: random.Random, texts: Texts) -> Item | None:
    """Start and operands of a chain of additions and subtractions, in the order the question tells them."""
    values, ops = [Fraction(v) for v in item.meta["values"]], list(item.meta["ops"])
    if written != values or not set(ops) <= {"+", "-"}:
        return None
    old = values[0] + sum(v if op == "+" else -v for op, v in zip(ops, values[1:], strict=True))
    limit = texts.largest if texts.largest is not None else 10 * int(max(values))
    for _ in range(TRIES):
        new = [_other(v, rng, texts) for v in values]
        totals = [new[0]]
        for op, value in zip(ops, new[1:], strict=True):
            totals.append(totals[-1] + value if op == "+" else totals[-1] - value)
        if totals[-1] != old and all(0 <= t <= limit for t in totals):
            return _renumbered(item, new, totals[-1])
    return None


def _other(value: Fraction, rng: random.Random, texts: Texts) -> Fraction:
    """Another number of like size: at most max(3, a fifth) away, with as many digits, at least 1.

    Numbers of another size would make the question harder, not only new.
    """
    if value.denominator != 1:
        return value + rng.choice([-1, 1]) * Fraction(1, 2) if value > 1 else value + Fraction(1, 2)
    old, digits = int(value), len(str(int(value)))
    reach = max(3, old // 5)
    low, high = max(1, old - reach, 10 ** (digits - 1)), min(old + reach, 10**digits - 1)
    high = high if texts.largest is None else min(high, texts.largest)
    chosen = [n for n in (rng.randint(low, high) for _ in range(8)) if n != old] if low < high else []
    return Fraction(chosen[0] if chosen else old)


def _renumbered(item: Item, new: Sequence[Fraction], answer: Fraction) -> Item:
    told = iter(new)
    prompt = NUMBER.sub(lambda _: _written(next(told)), item.prompt)
    last = list(re.finditer(r"-?\d+(?:\.\d+)?(?:/\d+)?", item.answer))
    text = _written(answer)
    if last:
        text = item.answer[: last[-1].start()] + text + item.answer[last[-1].end() :]
    return replace(item, prompt=prompt, answer=text, also=(), choices=(), correct=None)


def _written(value: Fraction) -> str:
    if value.denominator == 1:
        return str(int(value))
    return f"{float(value):g}" if value.denominator in (2, 4, 5, 10) else str(value)


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluated(equation: str) -> Fraction | None:
    """Exact value of an expression of numbers and + - * /; None for anything else, or a division by zero."""

    def value(node: ast.AST) -> Fraction:
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return Fraction(str(node.value))
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return Fraction(_ARITHMETIC[type(node.op)](value(node.left), value(node.right)))
        raise ValueError(ast.dump(node))

    try:
        return value(ast.parse(equation.strip(), mode="eval").body)
    except (ValueError, SyntaxError, ZeroDivisionError):
        return None


def _options(item: Item, rng: random.Random, texts: Texts) -> Item | None:  # noqa: ARG001
    found = list(OPTION.finditer(item.prompt))
    letters = [m[1] for m in found]
    answer = re.fullmatch(r"\s*\(?([A-E])\)?\.?\s*", item.answer)
    if len(found) < 2 or letters != sorted(set(letters)) or answer is None or answer[1] not in letters:
        return None
    order = list(range(len(found)))
    while order == sorted(order):
        rng.shuffle(order)
    told = " ".join(f"({letter}) {found[i][2].strip()}" for letter, i in zip(letters, order, strict=True))
    right = letters[order.index(letters.index(answer[1]))]
    start, end = answer.span(1)
    prompt = item.prompt[: found[0].start()] + told + item.prompt[found[-1].end() :]
    listed = len(item.choices) == len(order)
    return replace(
        item, prompt=prompt, answer=item.answer[:start] + right + item.answer[end:], also=(),
        choices=tuple(item.choices[i] for i in order) if listed else (),
        correct=letters.index(right) if listed else None,
    )  # fmt: skip


PERTURBATIONS: dict[str, Perturbation] = {
    "preamble": _preamble,
    "paraphrase": _paraphrase,
    "irrelevant": _irrelevant,
    "typos": _typos,
    "numbers": _numbers,
    "options": _options,
}
