"""How far the next-token distributions read from the residual stream differ, layer by layer.

Definition: JSD(p, q) = H(m) - H(p)/2 - H(q)/2 with m = (p + q)/2, between lens distributions softmax(N(x) W_U + b),
    N recomputed. Variants: `before_after` compares the two checkpoints at the same site on the same ids (each with
    its own final norm and head, or both with one shared head); `lens_to_final` compares each layer with the same
    checkpoint's output; `in_out` compares what enters a component (residual before it) with what it adds, both
    read through the lens. Also both KL divergences and total variation.
Units: nats in [0, ln 2] (JSD), nats >= 0 (KL), fraction in [0, 1] (total variation). The square root of the JSD, a
    distance with maximum 0.832555, is given only where asked and under its own name, js_distance.
Source: arXiv 2601.11061 (text: lens_to_final; released code: in_out, as a distance); before_after is this
    toolkit's default because only it has a before and an after.
Does not show: that a layer where the distributions part causes the change: a difference made early is carried along
    and grows or fades under later norms. Early layers are read in a basis they were not trained for. `in_out`
    reads a component by itself, which is scale-free and not additive.
Control: another group of items on the same pair; a checkpoint against itself is exactly 0; a pair whose training
    cannot have touched the items (random or unrelated reward).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.figures import curve, peaks
from analyses.core.result import Result
from analyses.core.stats import estimate
from analyses.core.work import Case, Work
from probe.lazily import torch
from probe.prompts import SPANS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Model, Prompts, TokenBatch
    from probe.finite import Where

MEASURES = ("jsd_nats", "kl_pq_nats", "kl_qp_nats", "total_variation")
COLUMNS = ("jsd_nats", "kl_first_second_nats", "kl_second_first_nats", "total_variation")
ROWS_AT_ONCE = 128  # the unembedding is read from memory once a chunk: with 64 rows its product is a fifth slower

Side: TypeAlias = "tuple[Tensor, Any]"  # rows [token, d_model] and the function that turns them into logits


def _work(case: Case) -> Work:
    """Both checkpoints' passes; two distributions a token and layer (one where a layer is read against the output)."""
    wanted = {"all": case.tokens, "prompt": case.prompt, "answer": case.answer}[case.options["positions"]]
    cells, options = wanted * case.n_layers, case.options
    passes, unembedded, tables = 2, 2 * cells, 1
    if options["variant"] == "lens_to_final":
        passes = 2 if options["site"] == "resid_post" else 4
        unembedded, tables = 2 * (cells + wanted), 2
    elif options["variant"] == "in_out":
        passes, unembedded, tables = 8, 8 * cells, 4
    spilled = cells if options["variant"] == "before_after" else 0
    return Work(block_rows=passes * case.full_pass, unembedded=unembedded, rows=tables * cells, row_bytes=25,
                sites=2 * case.n_layers, spilled=spilled)  # fmt: skip


def _reads(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The states that are compared."""
    if options["variant"] == "in_out":
        return "resid_pre", "resid_mid", "attn_out", "mlp_out"
    return tuple(dict.fromkeys((options["site"], *(["resid_post"] if options["variant"] == "lens_to_final" else []))))


def _finished(table: pd.DataFrame, options: Mapping[str, Any]) -> Result:
    """The result from the rows of all items."""
    keys = ["item", "answer_kind", "checkpoint", "site", "pos", "layer"]
    table = table.sort_values(keys, kind="stable", ignore_index=True)
    return Result.of(table, _aggregate(table, options["seed"]))


@analysis(work=_work, takes_turns=True, by_item=_finished, reads=_reads)
def divergence(
    base: Model,
    tuned: Model,
    prompts: Prompts,
    *,
    variant: Literal["before_after", "lens_to_final", "in_out"] = "before_after",
    head: Literal["own", "base", "tuned"] = "own",
    site: Literal["resid_post", "resid_mid", "resid_pre"] = "resid_post",
    positions: Literal["all", "prompt", "answer"] = "all",
    distance: bool = False,
    legacy: bool = False,
    template: Literal["none", "chat"] = "none",
    boundary: Literal["joint", "concat", "offsets"] = "joint",
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """Jensen-Shannon divergence (nats) of lens distributions per token and layer, and its mean per group.

    Rows: item, group, answer_kind, pos (the token read), layer, site, variant, checkpoint (which one was read:
    both, base or tuned), token (id), token_class, span, jsd_nats, kl_first_second_nats, kl_second_first_nats,
    total_variation. First and second are base and tuned, or layer and output, or component in and out.

    Args:
        variant: what is compared with what.
        head: final norm and unembedding used: each checkpoint's own, or one for both (before_after only).
        site: the stream that is read (before_after and lens_to_final).
        positions: those that are read.
        distance: add js_distance, the square root of the JSD.
        legacy: `legacy_js_distance`, the root of the JSD, read without the final norm.
    """

    warnings = reading.pair_warnings(base, tuned)
    plan = {"batch_size": batch_size, "template": template, "boundary": boundary}
    planned = list(reading.batches(base, prompts, "divergence", **plan))
    parts = _VARIANTS[variant](base, tuned, planned, site, head, positions)
    table = pd.concat(parts, ignore_index=True).assign(variant=variant)
    if distance:
        table["js_distance"] = np.sqrt(table["jsd_nats"])
    if legacy:
        first, second = cast("Model", _Bare(base)), cast("Model", _Bare(tuned))
        again = pd.concat(_VARIANTS[variant](first, second, planned, site, head, positions), ignore_index=True)
        table["legacy_js_distance"] = np.sqrt(again["jsd_nats"])
    return _finished(table, {"seed": seed}).with_record(warnings=warnings)


class _Bare:
    """A model whose states are read by its unembedding alone, without the final norm."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def unembed(self, resid: Tensor) -> Tensor:
        weight, bias = self._model.unembed_weights()
        logits = resid.to(weight) @ weight
        return (logits if bias is None else logits + bias).to(resid.device)


def _before_after(
    base: Model, tuned: Model, planned: list[TokenBatch], site: str, head: str, positions: str
) -> Iterator[pd.DataFrame]:

    befores: Iterator[list[Tensor]] = (_states(base, batch, site, positions) for batch in planned)
    read: dict[str, object] = {"base": base.unembed, "tuned": tuned.unembed}
    if isinstance(base, probe.turns.Turn):  # the base's states wait on disk, and of its weights only the head stays
        read["base"] = base.kept_head()
        befores = probe.turns.spilled(befores)
    first, second = {"own": ("base", "tuned")}.get(head, (head, head))
    for batch, before in zip(planned, befores, strict=True):
        after = _states(tuned, batch, site, positions)
        pairs = [((b, read[first]), (a, read[second])) for b, a in zip(before, after, strict=True)]
        yield _table(tuned, batch, positions, pairs).assign(site=site, checkpoint="both")


def _lens_to_final(
    base: Model, tuned: Model, planned: list[TokenBatch], site: str, head: str, positions: str
) -> Iterator[pd.DataFrame]:
    del head  # each checkpoint is compared with its own output
    for name, model, batch in ((n, m, b) for n, m in (("base", base), ("tuned", tuned)) for b in planned):
        states = _states(model, batch, site, positions)
        last = states[-1] if site == "resid_post" else _states(model, batch, "resid_post", positions)[-1]
        pairs = [((x, model.unembed), (last, model.unembed)) for x in states]
        yield _table(model, batch, positions, pairs).assign(site=site, checkpoint=name)


def _in_out(
    base: Model, tuned: Model, planned: list[TokenBatch], site: str, head: str, positions: str
) -> Iterator[pd.DataFrame]:
    del site, head
    for name, model, batch in ((n, m, b) for n, m in (("base", base), ("tuned", tuned)) for b in planned):
        # In parallel blocks there is no resid_mid: both components read the same input.
        middle = "resid_mid" if model.sites("resid_mid") else "resid_pre"
        for component, entry in (("attn_out", "resid_pre"), ("mlp_out", middle)):
            sides = [_states(model, batch, kind, positions) for kind in (entry, component)]
            pairs = [((x, model.unembed), (o, model.unembed)) for x, o in zip(*sides, strict=True)]
            yield _table(model, batch, positions, pairs).assign(site=component, checkpoint=name)


_VARIANTS = {"before_after": _before_after, "lens_to_final": _lens_to_final, "in_out": _in_out}


def _chosen(batch: TokenBatch, positions: str) -> tuple[Tensor, Tensor]:
    """Row and column in the batch of every token read, item by item."""
    spans = {"prompt": ("prompt", "template"), "answer": ("rationale", "answer", "straddle")}.get(positions, SPANS)
    wanted = torch.tensor([SPANS.index(name) for name in spans], device=batch.span.device)
    item, column = (batch.mask & torch.isin(batch.span.long(), wanted)).nonzero(as_tuple=True)
    return item, column


def _states(model: Model, batch: TokenBatch, kind: str, positions: str) -> list[Tensor]:
    """The chosen tokens' states [token, d_model] at every layer."""

    item, column = _chosen(batch, positions)
    sites = [f"{kind}.{layer}" for layer in range(model.shape.n_layers)]
    trace = model.run(batch, read=sites, logits="none")
    return [trace[s][item.to(trace[s].device), column.to(trace[s].device)] for s in sites]


def _table(model: Model, batch: TokenBatch, positions: str, pairs: list[tuple[Side, Side]]) -> pd.DataFrame:
    """Rows of one batch: every chosen token at every layer with its divergences."""

    item, column = _chosen(batch, positions)
    ids, offsets = batch.ids[item, column].cpu(), batch.offsets.to(item.device)[item]
    n_layers = len(pairs)
    per_token = {
        **reading.columns(batch.items, item),
        "pos": (column - offsets).cpu().numpy(),
        "token": ids.numpy(),
        "token_class": reading.token_classes(model.tokenizer, ids),
        "span": np.asarray(SPANS, dtype=object)[batch.span[item, column].long().cpu().numpy()],
    }
    table = pd.DataFrame({name: np.tile(values, n_layers) for name, values in per_token.items()})
    table["layer"] = np.repeat(np.arange(n_layers), len(ids))
    at = per_token["pos"]

    def where(row: int, layer: int) -> tuple[str, str, int]:
        return f"logits at layer {layer}", batch.items[int(item[row])].id, int(at[row])

    for name, values in zip(COLUMNS, _streamed(pairs, where), strict=True):
        table[name] = values.flatten()
    return table


def _streamed(pairs: list[tuple[Side, Side]], where: Callable[[int, int], tuple[str, str, int]]) -> np.ndarray:
    """Divergences [measure, layer, token]; two chunks of logits are held at a time, whatever the number of layers."""

    n_tokens = len(pairs[0][0][0])
    out = np.empty((len(MEASURES), len(pairs), n_tokens))
    for rows in reading.row_chunks(n_tokens, ROWS_AT_ONCE):
        fixed: tuple[Any, Any] | None = None  # lens_to_final has one second side for all layers: computed once
        for layer, ((first, unembed_first), (second, unembed_second)) in enumerate(pairs):
            if fixed is None or fixed[0] is not second:
                fixed = (second, unembed_second(second[rows]).float())
            named: Where = lambda row, n=layer, start=rows.start: where(start + row, n)  # noqa: E731
            found = reading.divergences(unembed_first(first[rows]).float(), fixed[1], named)
            for number, name in enumerate(MEASURES):
                out[number, layer, rows] = getattr(found, name).cpu().numpy()
    return out


def _aggregate(table: pd.DataFrame, seed: int) -> xr.Dataset:
    """Curves over layers: tokens averaged within an item, then items; also per class of the token read."""

    by = ["layer", "group", "answer_kind"] + [d for d in ("checkpoint", "site") if table[d].nunique() > 1]
    names = {
        "jsd_nats": ("nats", "Jensen-Shannon divergence"),
        "kl_first_second_nats": ("nats", "KL(first || second)"),
        "kl_second_first_nats": ("nats", "KL(second || first)"),
        "total_variation": ("fraction", "total variation distance"),
        "js_distance": ("nats^0.5", "Jensen-Shannon distance"),
        "legacy_js_distance": ("nats^0.5", "Jensen-Shannon distance without the final norm, as released"),
    }
    found = [estimate(table, q, by, seed=seed, units=u, long_name=n) for q, (u, n) in names.items() if q in table]
    unit, label = names["jsd_nats"]
    by_class: dict[str, Any] = {"name": "jsd_by_class_nats", "units": unit}
    by_class["long_name"] = f"{label} by class of the token read"
    found.append(estimate(table, "jsd_nats", [*by, "token_class"], seed=seed, **by_class))
    return xr.merge(found)


def figures(result: Result) -> dict[str, Figure]:
    """Divergence over layers by group, the largest starred, and by class of token."""

    rows = result.summary()
    color = "step" if "step" in rows else "group"
    extra = [d for d in ("group", "answer_kind", "checkpoint", "site") if d in rows and d != color]
    title = "Divergence over layers: mean over tokens then items, 95 % interval over items"
    drawn = {
        name: curve(rows[rows["quantity"] == name], x="layer", color=color, facet=extra, title=title)
        for name in ("jsd_nats", "total_variation")
    }
    if color != "step":
        peaks(drawn["jsd_nats"])
    classes = rows[rows["quantity"] == "jsd_by_class_nats"]
    drawn["by_class"] = curve(classes, x="layer", color="token_class", facet=[color, *extra], title=title)
    return drawn
