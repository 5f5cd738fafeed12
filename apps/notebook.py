"""Views for notebooks that are not Plotly figures: answers to be read, attention patterns in the form of CircuitsVis.

from apps.notebook import attention, reader
attention(tokens, pattern)          # the last expression of a cell shows it
reader(answered, prompts)           # answered: a sweep of `evaluate`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from numpy import asarray, ndarray

from apps.drawn import reading
from apps.drawn.look import alone, markup, text
from probe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from analyses.core.result import Result
    from probe import Prompts

NEEDED = ("item", "text", "correct")
START = 60  # characters of a prompt in the list
_CSS = """
.answers>input{margin:0 3px 0 10px}.answers>.all{max-height:560px;overflow-y:auto;border:1px solid var(--line)}
.answers details{padding:4px 8px;border-bottom:1px solid var(--line)}.answers summary{cursor:pointer}
"""


def attention(
    tokens: Sequence[str],
    pattern: Float[ndarray, "head pos key_pos"] | Any,
    *,
    names: Sequence[str] | None = None,
    offline: bool = True,
) -> Html:
    """Attention patterns of one sequence as interactive HTML, one small map per head.

    Args:
        tokens: decoded tokens; shown as text, never read as markup.
        pattern: attention probabilities of one layer (array or tensor), rows sum to 1.
        names: names of the heads, for example ("L5H0", "L5H1"); numbers by default.
        offline: embed the library's script (1.3 MB) instead of a link to a public host.

    Returns:
        An object notebooks display; ``.html`` is its code.

    Raises:
        InputError: shapes that do not fit the tokens, or CircuitsVis is not installed.
    """
    try:
        from circuitsvis.attention import attention_heads
    except ImportError as error:
        raise InputError("attention patterns need CircuitsVis: pip install circuitsvis") from error
    given: Any = pattern
    values = asarray(given.detach().cpu().float() if hasattr(given, "detach") else given, dtype=float)
    n = len(tokens)
    if values.ndim != 3 or values.shape[1:] != (n, n):
        raise InputError(f"pattern has shape {values.shape}; expected (head, {n}, {n}) for {n} tokens")
    if names is not None and len(names) != len(values):
        raise InputError(f"{len(names)} names for {len(values)} heads")
    # The library puts texts into a script as they are; `</script>` in a token would end it.
    texts = [*tokens, *(names or [])]
    marks = [f"@text-{i}@" for i in range(len(texts))]
    drawn = attention_heads(tokens=marks[:n], attention=values, attention_head_names=marks[n:] or None)
    html = drawn.local_src if offline else drawn.cdn_src
    for mark, word in zip(marks, texts, strict=True):
        html = html.replace(f'"{mark}"', json.dumps(word).replace("<", "\\u003c"))
    return Html(html)


def reader(answers: Result, prompts: Prompts | None = None, *, steps: tuple[int, int] | None = None) -> Html:
    """What two checkpoints wrote, item by item, as the dashboard's page Read draws it: marks, words that differ.

    An item opens by a click, filters are buttons; neither needs a server or a script. At most 300 items are listed.

    Args:
        answers: of `evaluate`, over one checkpoint or several.
        prompts: the items, for their texts.
        steps: of the two checkpoints, by default the first and the last.

    Raises:
        InputError: a result without graded texts, or without these steps.
    """
    rows = answers.table
    if missing := [name for name in NEEDED if name not in rows]:
        raise InputError(f"answers has no column {missing[0]!r}; expected a result of evaluate: item, text, correct")
    rows = rows if "step" in rows else rows.assign(step=0)
    found = reading.marks(rows)
    known = sorted(int(step) for step in found["step"].unique())
    a, b = steps or (known[0], known[-1])
    if not {a, b} <= set(known):
        raise InputError(f"steps={steps}; expected two of {known}")
    return Html(alone(markup(f"<style>{_CSS}</style>{_answers(rows, found, prompts, (a, b))}", "Answers")))


def _answers(rows: pd.DataFrame, found: pd.DataFrame, prompts: Prompts | None, at: tuple[int, int]) -> str:
    """Filters and the items they keep; a filter hides the others by its style alone."""
    asked = {item.id: item.prompt for item in prompts.items} if prompts else {}
    starts = {name: " ".join(prompt[:START].split()) for name, prompt in asked.items()}
    kept = {how: set(reading.kept(found, how, *at)) for how in reading.FILTERS}
    of = {str(name): part for name, part in rows[rows["step"].isin(at)].groupby("item", sort=False)}
    names = list(of)[: reading.MOST]
    items = "".join(
        f'<details class="{" ".join(f"f{n}" for n, how in enumerate(kept) if one.item in kept[how])}">'
        f"<summary>{reading.entry(one, *at)}</summary>{_written(of[one.item], asked.get(one.item, ''), at)}</details>"
        for one in reading.listed(found, names, starts)
    )
    cut = f'<p class="legend quiet">the first {len(names)} of {len(of)} items</p>' if len(of) > len(names) else ""
    return _filtered(items, {reading.FILTERS[how]: len(kept[how] & set(names)) for how in kept}) + cut


def _filtered(items: str, counts: dict[str, int]) -> str:
    group = f"r{hashlib.sha256(items.encode()).hexdigest()[:8]}"
    buttons = "".join(
        f'<input type="radio" name="{group}" id="{group}-{n}"{"" if n else " checked"}>'
        f'<label for="{group}-{n}">{text(name)} ({count})</label>'
        for n, (name, count) in enumerate(counts.items())
    )
    hide = "".join(f"#{group}-{n}:checked~.all>details:not(.f{n}){{display:none}}" for n in range(len(counts)))
    return f'<style>{hide}</style><div class="answers">{buttons}<div class="all">{items}</div></div>'


def _written(rows: pd.DataFrame, prompt: str, at: tuple[int, int]) -> str:
    """One item, as the page Read shows it."""
    by_step = {step: reading.written(rows[rows["step"] == step]) for step in dict.fromkeys(at)}
    named = zip("AB", by_step.items(), strict=False)
    sides = [(f"{a} · step {step}" if len(by_step) == 2 else "Answer", of) for a, (step, of) in named]
    gold = [str(value) for value in rows["gold"].dropna()] if "gold" in rows else []
    return reading.page(prompt, gold[0] if gold else "", sides, ())


@dataclass(frozen=True)
class Html:
    """What a notebook shows as it is."""

    html: str

    def _repr_html_(self) -> str:
        return self.html
