r"""Where a response says its answer. Linear in the length of the text, whatever it repeats; no mathematics.

The answer is looked for after the last closing tag of a thought (a box in there may have been taken back), then in
this order: `<answer>` tags, the last box (boxes joined by commas or "and" are one answer), `#### answer`, the last
"answer is ..." or "Answer: ...", and else in the text as it stands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Mark: TypeAlias = Literal["tag", "box", "hash", "statement", "none"]

THOUGHT = re.compile(r"</(?:think|thinking|thought|reasoning)>|<\|channel\|>final<\|message\|>", re.IGNORECASE)
TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.IGNORECASE | re.DOTALL)
BOXED = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
BETWEEN = re.compile(r"[\s$,;.&]*(?:\\\)|\\\]|\\\(|\\\[|\\quad|\\qquad|\\text\{\s*(?:and|or)\s*\}|,|and|or|[\s$,;&])*")
STATED = re.compile(
    r"\banswers?\b(?P<between>[^\n.:=!?]{0,80}?)(?:\b(?:is|are|was|be|equals)\b|:|=)(?P<sign>[\s*_:`>]*)", re.IGNORECASE
)
SENTENCE = re.compile(r"(?<=[.!?])[\"'*_)]*\s+(?=\S)|\n\s*\n|\n")
EDGES = ".,;:!?\"'()[]{}*_`$“”‘’«»…"


@dataclass(frozen=True)
class Found:
    """The text that holds the answer, what marked it, and where it begins in the response."""

    text: str
    mark: Mark
    start: int

    @property
    def marked(self) -> bool:
        """True where the response itself says which part is its answer."""
        return self.mark != "none"


def find(response: str) -> Found:
    """Where the response says its answer; `none` and the whole text after its thought where it does not say."""
    return candidates(response)[0]


def candidates(response: str) -> list[Found]:
    """Where the response may say its answer, best first: what it marks, else its statements from the last, else all."""
    begin = _after_thought(response)
    text = response[begin:]
    tags = [t for t in TAG.finditer(text) if t[1].strip()]
    if tags:
        at, inside = tags[-1].start(1), tags[-1][1]
        box = _last_boxes(inside)
        return [Found(inside, "tag", begin + at) if box is None else _boxed(inside, box, begin + at)]
    box = _last_boxes(text)
    if box is not None:
        return [_boxed(text, box, begin)]
    hashes = text.rfind("####")
    if hashes >= 0 and text[hashes + 4 :].strip():
        line = text[hashes + 4 :].lstrip()
        return [Found(line.partition("\n")[0], "hash", begin + len(text) - len(line))]
    stated = [Found(text[a:b], "statement", begin + a) for a, b in _statements(text)]
    return [*stated, Found(text, "none", begin)]


def _boxed(text: str, box: tuple[int, int, str | None], begin: int) -> Found:
    start, end, joined = box
    return Found(text[start:end] if joined is None else joined, "box", begin + start)


def _after_thought(response: str) -> int:
    """Where the last thought ends; 0 where nothing was thought, or nothing was said after it."""
    ends = [m.end() for m in THOUGHT.finditer(response)]
    return ends[-1] if ends and response[ends[-1] :].strip() else 0


def _last_boxes(text: str) -> tuple[int, int, str | None] | None:
    """(start, end, joined text) of the last complete box; of several that stand together, their contents by commas."""
    found: list[tuple[int, int, int, int]] = []
    for match in list(BOXED.finditer(text))[-20:]:  # a loop of boxes that never close costs no more than these
        inside = _group(text, match.end())
        if inside is not None and text[inside[0] : inside[1]].strip():
            found.append((match.start(), *inside))
    if not found:
        return None
    together = [found[-1]]
    for one in reversed(found[:-1]):
        gap = text[one[3] : together[0][0]]
        if len(gap) > 40 or not BETWEEN.fullmatch(gap) or not re.search(r",|;|and|or|&", gap):
            break
        together.insert(0, one)
    joined = ", ".join(text[a:b] for _, a, b, _ in together) if len(together) > 1 else None
    return together[0][1], together[-1][2], joined


def _group(text: str, at: int) -> tuple[int, int, int] | None:
    r"""(start, end, after) of what a command's braces hold by balance, or of the one token after it: `\boxed 4`."""
    while at < len(text) and text[at] in " \t\n":
        at += 1
    if at >= len(text):
        return None
    if text[at] != "{":
        match = re.match(r"[^\s$\\{},.]+(?:\.[0-9]+)?", text[at : at + 60])
        return (at, at + match.end(), at + match.end()) if match else None
    depth = 0
    for end in range(at, len(text)):
        if text[end] in "{}" and text[end - 1] != "\\":
            depth += 1 if text[end] == "{" else -1
            if depth == 0:
                return at + 1, end, end + 1
    return None


def _statements(text: str) -> list[tuple[int, int]]:
    """(start, end) of what each "answer is" or "Answer:" says, to the end of its sentence, the last one first."""
    found: list[tuple[int, int]] = []
    for match in reversed(list(STATED.finditer(text))[-20:]):
        start = match.end()
        end = sentence_end(text, start)
        if text[start:end].strip(EDGES + " \n") and not text[start:end].startswith("not "):
            found.append((start, end))
    return found


def sentence_end(text: str, start: int) -> int:
    """Where the sentence that holds `start` ends, its punctuation left out; a display formula goes with it."""
    opened = re.match(r"\s*(\$\$|\\\[)", text[start:])
    if opened:
        close = text.find("$$" if opened[1] == "$$" else r"\]", start + opened.end())
        if close >= 0:
            return close + 2
    stop = SENTENCE.search(text, start)
    end = stop.start() if stop else len(text)
    return start + len(text[start:end].rstrip(" \n.!?"))


def last_sentence(text: str) -> str:
    """The last sentence or line of a text that says anything."""
    parts = [p for p in SENTENCE.split(text) if p and p.strip(EDGES + " ")]
    return parts[-1].strip() if parts else ""
