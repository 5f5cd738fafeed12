r"""Numbers as people and models write them, read as exact fractions; imports only the standard library.

Read: decimals, thousands (`1,234`, `1\,234`, `1{,}234`, `1 234` with a thin space), `a/b`, `\frac`, mixed numbers
(`2 2/3`, `2\frac{2}{3}`, `2½`), powers (`2^10`), scientific notation (`1e3`, `3 \times 10^{8}`), percent, currency.
A hyphen after a digit or letter is a range or a difference, not a sign: `3-5` ends in 5. A comma that does not part
groups of three parts a list: `1,2,3` ends in 3, and `1,22` is no decimal. Nothing here can run long: what has more
than `DIGITS` digits, or would have, is not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import log10

DIGITS = 400
"""Digits beyond which a number is a loop, not an answer."""

COMMAND = re.compile(
    r"\\(?:text|mathrm|mbox|operatorname|mathbf|textbf|textit|mathit|mathsf|textrm|textsf|hbox|emph|boldsymbol)"
    r"\s*\{([^{}]*)\}"
)
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
SIGNS = str.maketrans("−–‒﹣－⁄∕×⋅·÷０１２３４５６７８９％", "-----//***/0123456789%")
HALVES = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
          "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}  # fmt: skip
SPACES = "\u00a0\u2007\u2009\u200a\u202f"
CURRENCY = "$€£¥₹₽₩₺₫"

_GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])"
_EXPONENT = r"(?:[eE][+-]?[0-9]{1,9}(?![0-9]|\.[0-9]))?"
_PLAIN = rf"(?:(?:{_GROUPED}|[0-9]+)(?:\.[0-9]+|\.(?=\s?/))?|\.[0-9]+){_EXPONENT}"
NUMBER = re.compile(
    rf"(?P<whole>{_PLAIN})(?:\s+(?:and\s+)?(?P<top>[0-9]+)\s?/\s?(?P<low>[0-9]+)(?![0-9.,/]*[0-9])"
    rf"|\s*/\s*(?P<under_sign>-?)(?P<under>{_PLAIN})"
    rf"|\^(?P<power>-?[0-9]{{1,9}})(?![0-9]|\.[0-9]))?"
    rf"(?:(?P<percent>\s?(?:%|percent\b))|\s+(?P<scale>thousand|million|billion|trillion)\b)?"
)
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


@dataclass(frozen=True)
class Number:
    """An exact value, where it stands in the plain text, and how it was written."""

    value: Fraction
    start: int
    end: int
    also: Fraction | None = None
    """A second reading that counts as well: the hundredth of a percentage, 5,000,000 of `5 million`."""
    decimals: int | None = None
    """Digits after the point of a number written as a decimal; None for a fraction or a power."""


def equal(a: Number, b: Number) -> bool:
    """The same value; a percentage is also its hundredth, and a fraction its expansion to six digits or more."""
    if a.value == b.value or a.also == b.value or a.value == b.also:
        return True
    return _expands(a, b) or _expands(b, a)


def _expands(short: Number, exact: Number) -> bool:
    """`short` is a decimal of at least six digits to which the fraction `exact` rounds."""
    if short.decimals is None or exact.decimals is not None or not short.value:
        return False
    scale = 10**short.decimals
    written = abs(short.value) * scale
    return written >= 10**5 and round(exact.value * scale) == short.value * scale


def plain(text: str) -> str:
    """The text with LaTeX, Unicode and markdown around numbers written as plain arithmetic; other text stays."""
    text = re.sub(r"\n\s*", "\n", re.sub(r"[^\S\n]+", " ", _thin(text)))  # no run of blanks is gone through twice
    for sign, spelled in HALVES.items():
        text = text.replace(sign, f" {spelled}")
    text = re.sub(r"(?<=[0-9)])([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "^" + m[1].translate(SUPERSCRIPTS), text)
    text = text.translate(SIGNS).replace("{,}", ",").replace(r"\%", "%").replace(r"\$", "$")
    text = COMMAND.sub(r" \1 ", text)
    text = re.sub(r"\\(?:left|right|displaystyle|big|Big|bigl|bigr)(?![A-Za-z])|\^\s*\{?\s*\\circ\s*\}?|°", "", text)
    text = re.sub(rf"(?<=[0-9])(?:\\[,!;: ]|[{SPACES}~]|,\\!\s?|,\s?\\!)(?=[0-9]{{3}}(?![0-9]))", ",", text)
    text = re.sub(rf"\\[,!;: ]|\\quad|\\qquad|[{SPACES}~]", " ", text)
    text = text.replace(r"\cdot", "*").replace(r"\times", "*").replace(r"\div", "/")
    text = re.sub(r"\^\s*\{\s*([+-]?[0-9]+)\s*\}", r"^\1", text)
    text = re.sub(r"(?<=[0-9])\*\*(?=-?[0-9])", "^", text).replace("**", "")
    text = _fractions(text)
    times_ten = r"(?<=[0-9])\s?[*xX]\s?10\s?\^\s?\(?([+-]?[0-9]{1,8})(?![0-9])\)?"
    return re.sub(times_ten, lambda m: f"e{int(m[1])}", text)


def _thin(text: str) -> str:
    """Thin spaces and underscores between groups of three digits as commas."""
    between = rf"(?<=[0-9])(?:\\[,!;: ]|[{SPACES}~]|,\\!\s?|,\s?\\!|_)(?=[0-9]{{3}}(?![0-9]))"
    return re.sub(between, ",", text)


def _fractions(text: str) -> str:
    r"""`\frac{a}{b}`, `\frac12`, `\frac1{b}` of plain numbers as ` a/b `; others stay as they are."""
    part = r"(?:\{\s*(-?[0-9.,]+)\s*\}|([0-9]))"
    form = re.compile(rf"(?:(-)\s?)?\\[dtc]?frac\s*{part}\s*{part}")

    def spelled(m: re.Match[str]) -> str:
        above, below = m[2] or m[3], m[4] or m[5]
        sign = m[1] or ""
        if above.startswith("-") and below.startswith("-"):
            above, below = above[1:], below[1:]
        if above.startswith("-"):
            sign, above = "" if sign else "-", above[1:]
        return f" {sign}{above}/{below} "

    return form.sub(spelled, text)


def numbers(text: str) -> list[Number]:
    """All numbers of a plain text (see `plain`), in order; digits glued to a letter before them only if all are."""
    found: list[Number] = []
    glued: list[Number] = []
    for match in NUMBER.finditer(text):
        number = _number(text, match)
        if number is not None:
            before = text[match.start() - 1 : match.start()]
            (glued if before.isalpha() or (before in ("_", "^", "\\") and before) else found).append(number)
    return found or glued


def _number(text: str, match: re.Match[str]) -> Number | None:
    if sum(c.isdigit() for c in match[0]) > DIGITS:
        return None
    start = _sign_before(text, match.start())
    whole = _decimal(match["whole"])
    if whole is None:
        return None
    value, decimals = whole, _decimals(match["whole"])
    if match["top"]:
        top, low = int(match["top"]), int(match["low"])
        if not low:
            return None
        value, decimals = Fraction(top, low) + (whole if top < low else 0), None
    elif match["under"]:
        below = _decimal(match["under"])
        if not below:
            return None
        value, decimals = whole / (-below if match["under_sign"] else below), None
    elif match["power"]:
        raised = _power(whole, int(match["power"]))
        if raised is None:
            return None
        value, decimals = raised, None
    value = -value if "-" in text[start : match.start()] else value
    also = value / 100 if match["percent"] else value * SCALES[match["scale"]] if match["scale"] else None
    return Number(value, start, match.end(), also, decimals)


def _decimal(text: str) -> Fraction | None:
    mantissa, _, exponent = text.replace(",", "").lower().partition("e")
    if abs(int(exponent or 0)) > DIGITS:
        return None
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def _decimals(text: str) -> int | None:
    mantissa, _, exponent = text.lower().partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(exponent or 0))


def _power(base: Fraction, exponent: int) -> Fraction | None:
    size = max(abs(base.numerator), base.denominator)
    if not base and exponent <= 0:
        return None
    if size > 1 and abs(exponent) * log10(size) > DIGITS:
        return None
    return base**exponent


def _sign_before(text: str, start: int) -> int:
    """Where the number begins with its sign: a minus counts where nothing stands before it that it could part."""
    at = start - 1
    while at >= 0 and text[at] in CURRENCY:
        at -= 1
    direct = at == start - 1 or text[at + 1] in CURRENCY
    while at >= 0 and text[at] == " ":
        direct, at = False, at - 1
    if at < 0 or text[at] != "-":
        return start
    before = text[max(0, at - 40) : at].rstrip(CURRENCY + " ")
    parts = bool(before) and (before[-1].isalnum() or before[-1] in ")}]%")
    if parts and not (direct and text[at - 1].isspace()):
        return start
    return at


def among_words(text: str) -> Number | None:
    """The number that a sentence of words says: of its last `=` the right side's, else its first; None in a formula."""
    rest = plain(text).rpartition("=")[2]
    found = numbers(rest)
    if not found:
        return None
    around = rest[: found[0].start][-3:] + "|" + rest[found[0].end :][:3]
    return None if re.search(r"[\\^*+/{}_:]|\(\||\|\s?[-!]", around) else found[0]


PREFIX = re.compile(r"^\s*(?:\$+|\\\(|\\\[)?\s*(?:[A-Za-z](?:_\{?\w+\}?|\([A-Za-z0-9]\))?\s*(?:=|\\approx|≈|:)\s*)?")
UNIT = re.compile(
    r"^\s*(?:(?:[A-Za-zµμΩ'’./*-]|\s|\^[0-9]|\\(?:circ|mu|Omega)\b|[²³])*)(?:\$+|\\\)|\\\])?[.,;]?\s*(?:\$+)?\s*$"
)


def as_number(text: str) -> Number | None:
    """The number a whole text is: one number with, if anything, `x =` before it and a unit after it; else None."""
    if len(text) > 1000:
        return None
    text = PREFIX.sub("", plain(text), count=1).strip().strip("*_`").strip()
    if re.fullmatch(r"[0-9]{1,3}(?: [0-9]{3})+", text):
        text = text.replace(" ", "")
    text = text.lstrip("~≈ ").removeprefix(r"\approx").strip()
    while len(text) > 1 and (text[0], text[-1]) in {("{", "}"), ("(", ")")}:
        text = text[1:-1].strip()
    found = numbers(text)
    if len(found) != 1 or text[: found[0].start].strip(CURRENCY + " +"):
        return None
    rest = text[found[0].end :]
    return found[0] if _is_unit(rest) else None


def _is_unit(rest: str) -> bool:
    """True for nothing, or words of a unit; letters right after a number are variables: `2x`, `3 i`, not `5 km`."""
    word = rest.strip().strip(CURRENCY + ".,;")
    if not word or word.startswith(r"\)") or word.startswith(r"\]"):
        return True
    if not UNIT.match(rest) or (len(word) == 1 and rest[:1] == word):
        return False
    if re.fullmatch(r"[a-z]{1,3}(?:\^[0-9])?", word) and word not in UNITS:
        return False
    return not re.search(r"(?:^|\s)(?:or|and|plus|minus|times|over|to)(?:\s|$)", word)


UNITS = frozenset(
    (
        "m",
        "s",
        "g",
        "l",
        "h",
        "kg",
        "cm",
        "mm",
        "km",
        "nm",
        "um",
        "ml",
        "cc",
        "hr",
        "min",
        "sec",
        "ms",
        "hz",
        "in",
        "ft",
        "yd",
        "mi",
        "oz",
        "lb",
        "lbs",
        "mph",
        "kph",
        "gal",
        "deg",
        "rad",
        "mol",
        "pa",
        "kpa",
        "atm",
        "kw",
        "kj",
        "ev",
        "mev",
        "usd",
        "eur",
        "gb",
        "mb",
        "kb",
        "am",
        "pm",
        "day",
        "pts",
        "cm^2",
        "cm^3",
        "m^2",
        "m^3",
        "km^2",
        "ft^2",
        "in^2",
        "mm^2",
    )
)
"""Short words that are units; any other of up to three small letters is taken for variables."""
