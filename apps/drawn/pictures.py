"""The pictures of the core papers, of one's own run: which results of a run each is drawn from, without a page.

A picture is a figure of one analysis, or lines of several of its results that differ in one option.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from analyses.core import figures
from analyses.core.analysis import get
from analyses.core.result import Result
from apps.catalog import Entry

HIGHEST = 3000  # pixels of all figures together: with what stands beside them a page stays below 4,000
Source: TypeAlias = tuple[Entry, Mapping[str, Any]]  # a result, and the part of it that is drawn


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        title: what it shows.
        analysis: whose results it is drawn from.
        figure: the analysis's figure; where results are joined, the quantity drawn over layers.
        look: what to look at, and what it does not say.
        asked: options of the command that makes its result.
        joined: option in which its results differ, each a line.
        only: values of that option which are drawn; () all.
    """

    title: str
    analysis: str
    figure: str
    look: str
    asked: str = ""
    joined: str = ""
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The title as files are named."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


PICTURES = (
    Picture(
        "Where two groups part",
        "trajectories",
        "bifurcation",
        "Mean states of both groups, embedding to last block; the star is the block that parts them, if any does.",
    ),
    Picture(
        "What pushes them apart",
        "trajectories",
        "force_squared",
        "Squared separation force without the bias of noise: 0 on average where the groups do not differ.",
    ),
    Picture(
        "Where the distributions change",
        "divergence",
        "jsd_nats",
        "Jensen-Shannon divergence before against after; the largest is starred. It is carried along by later layers.",
    ),
    Picture(
        "What MLP and attention say alone",
        "logit_lens",
        "logprob_nats",
        "The answer read from one component's output by itself: free of its size, and parts do not add up.",
        "--site mlp_out   # and again with --site attn_out",
        "site",
        ("mlp_out", "attn_out"),
    ),
    Picture(
        "How large the MLP's keys are",
        "key_size",
        "key_norm",
        "Layers differ in scale by training: read a peak against another group, not by itself.",
    ),
    Picture(
        "Keys scaled: layer by alpha",
        "mlp_key_steering",
        "map",
        "Change of the answer's log-probability where keys of a layer are scaled; placebos in panels of their own.",
    ),
    Picture(
        "The answer along layers under alpha",
        "logit_lens",
        "logprob_nats",
        "The answer read at every layer, as it is and with a site scaled.",
        "--scaled mlp_post.3=0.5   # and again without, and with other factors",
        "scaled",
    ),
    Picture(
        "Which tokens push entropy down",
        "sign_quadrants",
        "change",
        "Advantage by likelihood: below 0 the quadrant lowers entropy, to first order.",
    ),
    Picture(
        "Reward against entropy",
        "entropy_reward_law",
        "law",
        "The law R = b - a exp(H); two trends agree whatever ties them.",
    ),
    Picture(
        "The law against knowing nothing",
        "entropy_reward_law",
        "errors",
        "Error on later steps beside that of a last value or a line: the law says something where it is smaller.",
    ),
)


def sources(picture: Picture, entries: Sequence[Entry]) -> list[Source]:
    """The newest result a picture can be drawn from, the last step of a sweep; joined: of each value of the option.

    Args:
        picture: which.
        entries: results of one run, oldest first.
    """
    of = [e for e in entries if e.analysis == picture.analysis]
    if not picture.joined:
        return [_part(e, _last(e)) for e in of[-1:]]
    of = [e for e in of if set(e.options) <= {picture.joined}]
    of = [e for e in of if not picture.only or value(e, picture.joined) in picture.only]
    varied = [e for e in of if picture.only or e.options]
    if not varied:
        return []
    step, data = _last(varied[-1]), varied[-1].data_name
    alike = [e for e in of if e.data_name == data and (step in e.steps or step == _last(e))]
    return [_part(e, step) for e in {value(e, picture.joined): e for e in alike}.values()]


def value(entry: Entry, option: str) -> str:
    """The value of an option as a line is named."""
    found = entry.record.get("options", {}).get(option)
    return ", ".join(map(str, found)) if isinstance(found, list) and found else str(found or "as is")


def joined(picture: Picture, parts: Mapping[str, Result]) -> tuple[Any, pd.DataFrame]:
    """(figure, rows) of results that differ in one option: a line each over layers, a panel per group of items.

    Args:
        picture: with the option and the quantity; log-probabilities are drawn as the probability they are of.
        parts: value of the option -> result.
    """
    frames = [r.summary().assign(**{picture.joined: name}) for name, r in parts.items()]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows[rows["quantity"] == picture.figure].reset_index(drop=True)
    if picture.figure == "logprob_nats":
        ends = {c: np.exp(rows[c]) for c in ("value", "ci_low", "ci_high") if c in rows}
        rows = rows.assign(**ends, unit="fraction", quantity="probability")
    panels = [d for d in ("group", "answer_kind") if d in rows]
    how: dict[str, Any] = {"y_title": "probability a token", "title": picture.title}
    return figures.curve(rows, x="layer", color=picture.joined, facet=panels, **how), rows


def panels(figure: Any) -> int:
    """How many panels a figure has: one with several needs the page's whole width."""
    return len({getattr(t, "xaxis", None) for t in figure.data})


def fitting(heights: Sequence[int]) -> int:
    """How many figures, one under the other, a page has room for: at least one."""
    return max(1, int(np.searchsorted(np.cumsum(heights), HIGHEST, side="right")))


def made_by(picture: Picture) -> str:
    """The command that makes a picture's result."""
    needed = [i.name.replace("_", "-") for i in get(picture.analysis).inputs if not i.optional]
    return " ".join(["probe run", picture.analysis, *(f"--{name} ..." for name in needed), picture.asked]).strip()


def _part(entry: Entry, step: int | None) -> Source:
    return entry, {"step": step} if entry.is_sweep and step in entry.steps else {}


def _last(entry: Entry) -> int | None:
    """The last step a result is about, None where it names none."""
    steps = entry.steps or [c["step"] for c in entry.checkpoints if isinstance(c.get("step"), int)]
    return max(steps, default=None)
