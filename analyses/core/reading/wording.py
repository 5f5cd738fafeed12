"""Answers in words and letters: what they say, and whether two say the same. Linear in the length of the text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from analyses.core.reading.answers import EDGES, Found, find, last_sentence
from analyses.core.reading.exact_numbers import COMMAND

MATHEMATICAL = frozenset(
    (
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "inf",
        "infinity",
        "lim",
        "mod",
        "gcd",
        "lcm",
        "max",
        "min",
        "and",
        "or",
    )
)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
POLAR = {"yes": "yes", "no": "no", "true": "yes", "false": "no"}
NEGATION = frozenset(
    (
        "not",
        "no",
        "never",
        "neither",
        "nor",
        "isn't",
        "wasn't",
        "aren't",
        "cannot",
        "can't",
        "doesn't",
        "without",
        "unlike",
    )
)
WORD = re.compile(r"(?:^|(?<=[\s(\[{\"'*-]))[A-Za-z][A-Za-z'’-]+(?=[\s:,.;!?)\]}\"'*]|$)")


def unwrapped(text: str) -> str:
    r"""The text without `\text{...}` around words, dollar signs and box commands."""
    for _ in range(4):  # groups within groups
        text = COMMAND.sub(r" \1 ", text)
    return text.replace("$", " ").replace("\\(", " ").replace("\\)", " ")


def without_words(text: str) -> str:
    r"""A formula without the words that stand in `\text{...}` beside it; as it is where nothing else is left."""
    rest = COMMAND.sub(_without, text)
    return rest if re.search(r"[0-9A-Za-z]", rest) else text


def less(text: str) -> tuple[str, str]:
    r"""A formula without the words beside it, and without the letter of an option before it: `\textbf{(D)} 5`."""
    bare = without_words(text)
    return bare, re.sub(r"^\s*(?:\([A-J]\)|[A-J][).:])[\s\\]*(?=\S)", "", bare)


def _without(match: re.Match[str]) -> str:
    """What stays of a text command: an "and" or "or" parts a list, other words go, letters and numbers stay."""
    if match[1].strip().lower() in ("and", "or"):
        return ","
    return " " if re.search(r"[A-Za-z]{2}", match[1]) else f" {match[1]} "


def is_prose(text: str) -> bool:
    """True where words stand in a text beside or in place of mathematics (LaTeX commands and text groups aside)."""
    bare = re.sub(r"\\(?:begin|end)\s*\{\w+\*?\}|\\[A-Za-z]+|\bnp\.", " ", COMMAND.sub(" ", text))
    # Single letters with a sign between them are a difference, `b-a`, not a hyphenated word.
    found = (part for word in WORD.findall(bare) for part in re.findall("[a-z]{2,}", word.lower()))
    return any(w not in MATHEMATICAL and (len(w) > 3 or bool(re.search("[aeiou]", w))) for w in found)


def words(text: str) -> tuple[str, ...]:
    """The words of an answer, without case, edge punctuation, markdown, LaTeX text commands and a leading article."""
    parts = unicodedata.normalize("NFKC", unwrapped(text)).casefold().split()
    found = [p.strip(EDGES) for p in parts]
    kept = [w for w in found if w]
    return tuple(kept[1:] if len(kept) > 1 and kept[0] in ("the", "a", "an") else kept)


def parts(text: str) -> Counter[tuple[str, ...]]:
    """The elements of a list in words ("red, green and blue"), in any order; one element where it is no list."""
    inner = re.sub(r"[^\S\n]+", " ", unwrapped(text[:2000])).strip().strip("[](){}")
    pieces = re.split(r",|;|\n| (?:and|&) ", inner)
    return Counter(w for p in pieces if (w := words(re.sub(r"^ ?(?:and|&) ", "", p))))


def says(found: Found, gold: str) -> bool:
    """True where the answer in words is `gold`.

    A marked answer must equal it (lists in any order), a statement may go on after it. Where nothing is marked, the
    last sentence must be it, or say it as whole words without a negation before it; of yes, no, true and false, the
    one the response begins with, else the last one it says.
    """
    wanted = words(gold)
    if len(wanted) == 1 and wanted[0] in POLAR:
        return polar(found) == POLAR[wanted[0]]
    told = words(found.text)
    if told == wanted or (parts(found.text) == parts(gold) and len(parts(gold)) > 1):
        return True
    if found.mark == "statement":
        return told[: len(wanted)] == wanted
    if found.marked:
        return False
    clauses = re.split(r",|;|\bbut\b", last_sentence(found.text))
    return any(_holds(words(c), wanted) for c in (last_sentence(found.text), *clauses)) and not any(
        _holds(words(c), wanted) and NEGATION & set(words(c)) for c in clauses
    )


def _holds(told: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return bool(wanted) and any(told[i : i + len(wanted)] == wanted for i in range(len(told) - len(wanted) + 1))


def polar(found: Found) -> str | None:
    """Yes (or true) or no (or false) as an answer says it, or None."""
    told = words(found.text)
    if not told:
        return None
    if found.marked or told[0] in POLAR:
        return next((POLAR[w] for w in told if w in POLAR), None)
    return next((POLAR[w] for w in reversed(words(last_sentence(found.text))) if w in POLAR), None)


LONE = re.compile(r"[\s$*_`({\[\\]*(?:(?:option|choice|answer)\s+)?\(?([A-Za-z])[)}\]*_`.:$\s\\]*", re.IGNORECASE)
LEADING = re.compile(
    r"[\s$*_`({\[]*(?:(?:option|choice|answer)\s+)?[*_`({\[]*([A-Z])(?:[)}\]*_`.:,]|\s*$|\s+[-–—]|\s*\n)"
)
SPOKEN = re.compile(r"\b(?i:option|choice)(?:\s+is)?:?\s+[*_`(]*([A-Z])\b|\(([A-Z])\)|\*\*\(?([A-Z])\)?\*\*")
SEVERAL = re.compile(r"[\s(\[{]*[A-Z](?:\s*(?:,|;|\band\b|&)?\s*[A-Z])+[\s)\]}.]*")


def letters(text: str) -> str | None:
    """The letters a gold answer names, in order: `B`, `(b)`, `B. Paris`, `ACD`, `A, C and D`; None if none."""
    bare = unwrapped(text[:200]).strip()
    lone = LONE.fullmatch(bare)
    if lone and (lone[1].isupper() or lone[1] in "abcdefghij"):
        return lone[1].upper()
    if SEVERAL.fullmatch(re.sub(r"\band\b", ",", bare)):
        found = re.findall(r"[A-Z]", bare)
        return "".join(sorted(found)) if len(set(found)) == len(found) else None
    leading = re.match(r"\s*\(?([A-Z])[).:]\s", bare)
    return leading[1] if leading else None


def chosen(response: str, choices: tuple[str, ...]) -> str | None:
    """The letters a response chooses (of `choices`, or by the text of one of them), or None where it chooses none."""
    found = find(response)
    allowed = LETTERS[: len(choices)] if choices else LETTERS
    told = _letters_of(found, allowed)
    if told is not None:
        return told
    by_text = [i for i, choice in enumerate(choices) if choice.strip() and says(found, choice)]
    if len(by_text) == 1:
        return LETTERS[by_text[0]]
    spoken = [next(g for g in m.groups() if g).upper() for m in SPOKEN.finditer(unwrapped(found.text))]
    spoken = [s for s in spoken if s in allowed]
    return spoken[-1] if spoken else None


def _letters_of(found: Found, allowed: str) -> str | None:
    text = unwrapped(found.text).strip()[:200] if found.marked else unwrapped(found.text).strip()
    if not found.marked:
        text = text if len(text) < 4 or LEADING.match(text[:80]) else last_sentence(text)
    named = letters(text) if found.marked or len(text) < 12 else None
    if named is None:
        leading = LEADING.match(text[:80])
        named = leading[1] if leading else None
    return named if named and all(letter in allowed for letter in named) else None
