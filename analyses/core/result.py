"""The one result type: named arrays, a tidy table and the record of how both came about.

Facts per item or per token are rows of ``table``; rectangular aggregates (curves, heatmaps, intervals) are
variables of ``data``. An aggregate with uncertainty is a variable ``q`` with the companions ``q_ci_low``,
``q_ci_high`` and ``q_n`` on the same dims; NaN means "not measured".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from analyses.core import claim as claimed
from analyses.core import tabled
from analyses.core.claim import Claim
from analyses.core.homes import homes
from analyses.core.lazily import pandas as pd
from analyses.core.lazily import xarray as xr
from probe.errors import InputError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DIMS: dict[str, str] = {
    "item": "prompt, by id",
    "pos": "position in the item's own sequence, padding not counted; a read at pos predicts the token at pos+1",
    "key_pos": "attended position",
    "layer": "block, from 0; resid_post of layer l is the output of block l",
    "head": "query head, from 0",
    "kv_head": "key/value head, from 0",
    "neuron": "MLP hidden unit, from 0",
    "d_model": "residual coordinate",
    "vocab": "token id",
    "step": "optimizer step of the checkpoint",
    "run": "training run by name",
    "sample": "independent generation of one item",
    "site": "site kind",
    "mask": "set of scored tokens",
    "target": "token id whose probability is read",
    "direction": "which checkpoint is patched into which",
    "variant": "named form of a quantity",
    "arm": "treatment or placebo",
    "alpha": "strength of an intervention (1 = none)",
    "beta": "size of an added direction, as a share of the mean norm of the stream (0 = none)",
    "draw": "seeded repetition of a random choice",
    "sender": "component whose output is changed on a path",
    "receiver": "component that reads the change",
    "group": "design or label group of items",
    "answer_kind": "what the scored answer text is",
    "token_class": "class of a token's text",
    "matrix": "weight matrix by name",
    "window": "run of consecutive layers, by its first layer",
    "source_step": "optimizer step of the checkpoint patched from",
    "rollout_step": "optimizer step of the policy that sampled a response",
    "sign": "sign of the advantage",
    "fraction": "share of the question shown, or of tokens selected",
    "k": "number of samples, or of top tokens",
    "role": "anchor or adapter",
    "signal": "named per-token signal",
    "stage": "training stage of a checkpoint",
    "checkpoint": "which one of a pair was read: base, tuned, or both",
    "state": "residual state: 0 = embedding, l+1 = output of block l",
    "part": "part of a block: gate, up, down, q, k, v, o",
    "ablation": "what takes the place of what was removed",
    "readout": "where the effect of an ablation is read",
    "family": "kind of evidence in a rule that joins several",
    "permutation": "relabelling of the items under a null hypothesis",
    "split": "seeded split of the items into training and held-out ones",
    "segment": "part of a response between boundaries",
    "trained_on": "group of items whose gradient is followed",
    "call": "tool call of a response, from 0",
    "latent": "feature of a dictionary, by number",
    "temperature": "sampling temperature",
}
STAGES = ("under-trained", "good fit", "over-memorized", "over-fit")  # of a run: the rule of over_memorization
NOT_ASSESSABLE = "not assessable"
COMPANIONS = ("ci_low", "ci_high", "n")
_SHOWN = 8  # rows of a summary that a notebook shows


class Rows(Protocol):
    """Rows that lie in a file: their number, and the frame when called."""

    def __len__(self) -> int: ...

    def __call__(self) -> pd.DataFrame: ...


@dataclass(frozen=True, repr=False)
class Result:
    """A finished analysis.

    Attributes:
        data: aggregates with named dims (see ``DIMS``); ``attrs["verdict"]``: a sentence where there are no claims.
        rows: facts, one per row, long form, or how to read them; `table` is the frame itself.
        record: provenance, JSON-serialisable: key, analysis, inputs, options, versions, warnings, claims, times.
    """

    data: xr.Dataset
    rows: pd.DataFrame | Rows
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Facts, one per row, long form."""
        return self.rows if isinstance(self.rows, pd.DataFrame) else self.rows()

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        data: xr.Dataset | None = None,
        *,
        verdict: str | None = None,
        claims: Sequence[Claim] = (),
        warnings: Sequence[str] = (),
    ) -> Result:
        """A result as an analysis returns it; the runner adds provenance.

        Args:
            table: facts, one per row.
            data: aggregates.
            verdict: a sentence of an analysis that makes no claims as data yet.
            claims: what the analysis says (see `analyses.core.claim`); kept in the record.
            warnings: what a reader must know before believing the numbers.

        Raises:
            ValueError: a dim outside the vocabulary, or an interval without its estimate.
        """
        data = xr.Dataset() if data is None else data
        _check(data)
        if verdict is not None:
            data = data.assign_attrs(verdict=verdict)
        said = {"claims": [claimed.as_json(c) for c in claims]} if claims else {}
        return cls(data, table.reset_index(drop=True), {"warnings": list(warnings), **said})

    @property
    def key(self) -> str:
        """Content address of the result; empty before it went through ``run``."""
        return str(self.record.get("key", ""))

    @property
    def analysis(self) -> str:
        """Name of the analysis that made it."""
        return str(self.record.get("analysis", ""))

    @property
    def claims(self) -> list[Claim]:
        """What the analysis says, as data; [] where it reports numbers only."""
        return [claimed.from_json(c) for c in self.record.get("claims", [])]

    @property
    def verdict(self) -> str | None:
        """The claims in words, or None where the analysis makes none."""
        return claimed.text(self.claims) or self.data.attrs.get("verdict")

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers."""
        return list(self.record.get("warnings", []))

    def summary(self) -> pd.DataFrame:
        """Estimates as tidy rows ``quantity, unit, <dims>, value, ci_low, ci_high, n``; unmeasured cells dropped."""
        frames = [_rows(self.data, str(name)) for name in self.data.data_vars if is_estimate(self.data, str(name))]
        if not frames:
            return pd.DataFrame(columns=["quantity", "unit", "value", *COMPANIONS])
        joined = pd.concat(frames, ignore_index=True)
        dims = [c for c in joined.columns if c in DIMS]
        return joined[["quantity", "unit", *dims, "value", *COMPANIONS]]

    def numbers(self, quantity: str, **wanted: object) -> pd.DataFrame:
        """One quantity: value, ci_low, ci_high and n, a row for each of what is told apart, which is the index.

        ``evaluated.numbers("accuracy_strict", step=[0, 48])`` has a row a group and step. A value keeps only its cells,
        a list those of its values; dims with one value left are dropped.

        Raises:
            InputError: no such quantity, dim or value.
        """
        return tabled.numbers(self.summary(), quantity, wanted)

    def spread(self, quantity: str, across: str, **wanted: object) -> pd.DataFrame:
        """The same to be read: a column for each value of the dim `across`, cells like ``0.52 [0.40, 0.63]``.

        Raises:
            InputError: no such quantity, dim or value.
        """
        return tabled.spread(self.numbers(quantity, **wanted), across)

    def where(self, **wanted: object) -> Result:
        """The part at these coordinates: one value drops its dim (and column), a list keeps it.

        ``sweep.where(step=60)`` is what the analysis gave at step 60; ``.where(group=["leaked", "unseen"])`` keeps two.

        Raises:
            InputError: one value, where the dim does not have it.
        """
        data = self.data
        table: Any = self.table
        for name, value in wanted.items():
            several = isinstance(value, list | tuple)
            if name in data.dims:
                if not several and value not in data[name].values.tolist():
                    raise InputError(f"{name}={value!r}; of {name} there are {data[name].values.tolist()[:20]}")
                keep = [v for v in data[name].values.tolist() if v in value] if several else value
                data = data.sel({name: keep}, drop=not several)
            if name in table:
                table = table[table[name].isin(list(value) if several else [value])]
                table = table if several else table.drop(columns=name)
        part = [*self.record.get("part", []), wanted]  # a later analysis must not take it for the whole
        return replace(self, data=data, rows=table.reset_index(drop=True), record={**self.record, "part": part})

    def figures(self) -> dict[str, Figure]:
        """Plotly figures of this result by name, drawn by its analysis; {} for one that draws none."""
        draw = getattr(import_module(homes()[self.analysis]), "figures", None)
        return draw(self) if draw else {}

    def figure(self) -> Figure:
        """The first figure."""
        return next(iter(self.figures().values()))

    def __repr__(self) -> str:
        said = [f"  {line}" for line in (self.verdict or "").splitlines()[:4]]
        told = [f"  warning: {w}" for w in self.warnings[:2]]
        head = f"Result({self.analysis or 'unnamed'}{f' {self.key[:8]}' if self.key else ''}, {len(self.rows)} rows)"
        return "\n".join([head, *said, *told])

    def _repr_html_(self) -> str:
        said = "".join(f"<p><b>{escape(line)}</b></p>" for line in (self.verdict or "").splitlines())
        told = "".join(f"<p>⚠ {escape(w)}</p>" for w in self.warnings)
        rows = self.summary()
        shown = rows.head(_SHOWN).to_html(index=False, border=0, float_format="{:.4g}".format) if len(rows) else ""
        more = f"<p>{max(0, len(rows) - _SHOWN)} more rows in .summary(); facts in .table; pictures in .figures()</p>"
        return f"<div>{escape(self.analysis)} <code>{escape(self.key[:8])}</code></div>{said}{told}{shown}{more}"

    def _ipython_display_(self) -> None:
        """What a notebook shows: the claim and the first rows, then the first figure."""
        from IPython.display import HTML, display  # only IPython calls this

        display(HTML(self._repr_html_()))
        drawn = self.figures() if self.analysis else {}
        if drawn:
            display(next(iter(drawn.values())))

    def with_record(self, **entries: object) -> Result:
        """The same numbers with provenance entries added."""
        return replace(self, record={**self.record, **entries})


def is_estimate(data: xr.Dataset, name: str) -> bool:
    """True where ``name`` has an interval beside it."""
    return all(f"{name}_{suffix}" in data for suffix in COMPANIONS)


def _check(data: xr.Dataset) -> None:
    unknown = sorted({str(d) for d in data.dims} - set(DIMS))
    if unknown:
        raise ValueError(f"unknown dims {unknown}; known: {sorted(DIMS)}. Register a new one in core/result.py.")
    for name in map(str, data.data_vars):
        base = name.removesuffix("_ci_low")
        if base != name and not is_estimate(data, base):
            raise ValueError(f"{name} has no complete estimate; expected {base} and {base}_{{ci_low,ci_high,n}}")


def _rows(data: xr.Dataset, name: str) -> pd.DataFrame:
    parts = {"value": data[name], **{s: data[f"{name}_{s}"] for s in COMPANIONS}}
    frame = xr.Dataset({k: (v.dims, v.values) for k, v in parts.items()}, {d: data[d].values for d in data[name].dims})
    rows = frame.to_dataframe().reset_index() if frame.dims else pd.DataFrame([{k: float(v) for k, v in frame.items()}])
    rows = rows.dropna(subset=["value"])
    rows.insert(0, "quantity", name)
    rows.insert(1, "unit", data[name].attrs.get("units", ""))
    return rows


def units_of(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What each item is resampled with: its cluster or problem, from prompts and from tables of earlier results."""
    found: dict[str, str] = {}
    for given in arguments.values():
        if isinstance(getattr(given, "items", None), tuple):
            found |= {i.id: i.unit for i in given.items if i.unit != i.id}
        elif isinstance(given, Result) and {"item", "cluster"} <= set(given.table):
            told = given.table[["item", "cluster"]].dropna().drop_duplicates("item")
            found |= dict(zip(told["item"].astype(str), told["cluster"].astype(str), strict=True))
    return found
