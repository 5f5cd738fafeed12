"""Checkpoints merged one after the other into a base, each first said in the basis of what is merged so far.

Definition: m = base; for each checkpoint c of the stream m <- m + mix (c~ - m). `linear`: c~ = c. `aligned`: c's
    residual stream turned onto m's, h_c = h_m R with R the best rotation of the states of the same tokens (centred,
    each state scaled to one size; within `components` principal components), all that reads the stream turned back
    (W diag(g_c) R' diag(1 / g_m), g the gains of the norm before it) and all that writes it (R W). `rotated`: the
    published form, the turned difference (c - m) R', which takes both to lie in c's basis. `random`: as aligned, R by
    the same angles about random planes. nll_nats: of the given answers, micro, after each checkpoint of the stream;
    variant `checkpoint` is c itself. angle: |log R|_F / sqrt 2; angle_chance: that of two unrelated bases.
Units: nats per token; angles in radians.
Source: arXiv 2602.03237 (rotation from activations, a learning rate, iterated). Ours: one rotation for all
    blocks, since skip connections carry the stream past every weight; `aligned` beside the published `rotated`, which
    does not give the base back where the checkpoint is the base turned.
Does not show: that a rotation took place: any two streams have a best one. Its gain over `linear` and `random` is what
    counts. Defined where a turn of the stream with its weights keeps the logits (RMSNorm, plain blocks): proven on the
    model before, else refused.
Control: `linear` (no rotation), `random` (another of equal angles), `checkpoint`; a base turned as a whole (aligned
    gives the base back); the same checkpoint (nothing moves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

import probe
from analyses.answers import _turned_weights as turns
from analyses.answers._answer_nll import answer_nll
from analyses.core import reading
from analyses.core.analysis import analysis
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, Fields
from analyses.core.figures import curve
from analyses.core.progress import progress
from analyses.core.result import Result
from analyses.core.stats import estimate, mean_of_items
from analyses.core.work import Case, Work, passes
from probe import checkpoints as stored
from probe import families
from probe.errors import InputError
from probe.lazily import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plotly.graph_objects import Figure
    from torch import Tensor

    from probe import Checkpoint, Model, Prompts, TokenBatch

    Checkpoints = list[Checkpoint]
else:
    from analyses.core.analysis import Checkpoints

BY = ["group", "answer_kind", "variant", "source_step"]
FEWEST = 8  # items
TOLERANCE = 1e-3  # largest relative change of logits under a turn that should change nothing; in float32
ROUNDINGS = 8  # the same in units of the last digit, where weights are kept in fewer digits


def _work(case: Case) -> Work:
    """Of each checkpoint, as of each of the four merges after it, a pass for its states and one for its answers."""
    return passes(case, "answer", times=10, models=1)


@analysis(work=_work)
def rotated_merge(
    model: Model,
    checkpoints: Checkpoints,
    prompts: Prompts,
    *,
    mix: float = 0.5,
    components: int = 0,
    tokens: int = 512,
    template: Literal["none", "chat"] = "none",
    out: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Result:
    """NLL of the answers after each checkpoint is merged in: linearly, aligned, by the published form, at random.

    `model` is what the stream starts from. Weights are read tensor by tensor as they are stored; two models are in
    memory, and the states of `tokens` tokens of every checkpoint. Rows: item, group, answer_kind, variant, source_step
    (of the checkpoint merged last), nll_nats (summed over its tokens), n_tokens. Arrays besides: angle, angle_chance,
    fit (share of the checkpoint's states that rotated ones explain) by source_step.

    Args:
        mix: share of every checkpoint (the learning rate of the stream); 0 leaves the base as it is.
        components: in which the stream is turned; 0: all, at most a third of the states seen.
        tokens: whose states the rotation is fitted to, spread over the items.
        out: the aligned merge of all.
        seed: the random rotation.
    """
    if not 0 <= mix <= 1 or components < 0 or components == 1 or tokens < 2:
        raise InputError(
            f"mix={mix}, components={components}, tokens={tokens}: a share in 0..1, 0 or at least 2 components, "
            "at least 2 tokens"
        )
    read = _Reading(model, prompts, template, batch_size, tokens)
    stream = _Stream(model, checkpoints, read, components, seed)
    rows = [*stream.of_checkpoints()]
    for variant in ("linear", "aligned", "rotated", "random"):
        rows += stream.merged(variant, mix, out if variant == "aligned" else None)
    table = pd.DataFrame(rows)
    nll = estimate(table, "nll_nats", BY, per="n_tokens", units="nats/token", long_name="NLL of the answers")
    data = xr.merge([nll, stream.angles()], join="outer")
    return Result.of(table, data, claims=_claims(table), warnings=stream.warnings)


class _Reading:
    """How answers and states are read, the same for every model of the stream."""

    def __init__(self, base: Model, prompts: Prompts, template: Any, batch_size: int, tokens: int) -> None:
        self.base, self.prompts, self.plan = base, prompts, {"batch_size": batch_size, "template": template}
        self.each = max(1, -(-tokens // len({i.id for i in prompts.items})))
        self.sites = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(base.shape.n_layers))]

    def nll(self, model: Model) -> list[dict[str, Any]]:
        return answer_nll(model, self.prompts, self.plan["template"], int(self.plan["batch_size"]))

    def states(self, model: Model) -> np.ndarray[Any, Any]:
        """[token, state, d_model] of tokens spread evenly over every item, its first left out."""
        parts: list[tuple[str, np.ndarray[Any, Any]]] = []
        for batch in reading.batches(model, self.prompts, "states", **self.plan):
            trace = model.run(batch, read=self.sites, logits="none")
            for row, item in enumerate(batch.items):
                real = batch.mask[row].nonzero()[1:, 0]
                at = real[np.unique(np.linspace(0, len(real) - 1, min(self.each, len(real))).round().astype(int))]
                found = torch.stack([trace[s][row][at.to(trace[s].device)].float().cpu() for s in self.sites], 1)
                parts.append((f"{item.id}/{item.answer_kind}", found.numpy()))
        return np.concatenate([found for _, found in sorted(parts, key=lambda p: p[0])])


class _Stream:
    """The base, what is merged into it, and what was measured on the way."""

    def __init__(self, base: Model, checkpoints: Checkpoints, read: _Reading, components: int, seed: int) -> None:
        if not base.checkpoint or not len(checkpoints):
            raise InputError("rotated_merge needs a base with a folder on disk, and at least one checkpoint")
        self.base, self.read, self.components, self.seed = base, read, components, seed
        self.checkpoints = sorted(checkpoints, key=lambda c: (c.step is None, c.step or 0))
        self.steps = [n if c.step is None else c.step for n, c in enumerate(self.checkpoints)]
        if len(set(self.steps)) < len(self.steps):
            raise InputError(f"checkpoints at steps {self.steps}: a stream has one of each step (STEP=FOLDER)")
        self._load: Any = getattr(checkpoints, "load", probe.Model.load)
        self.work = _own(base, self._load(base.checkpoint))
        self.sides = turns.sides(self.work)
        self.now: turns.Weights = lambda name: self.work.weights()[name].detach().cpu()
        read_from = [
            stored.StoredWeights(c, allow_pickle=base.reading.allow_pickle)
            for c in (base.checkpoint, *self.checkpoints)
        ]
        self.start, *self.stored = (_named(s, self.work.weights()) for s in read_from)
        self._prove()
        self.states: list[np.ndarray[Any, Any]] = []
        self.turned: list[tuple[float, float, int]] = []
        self.warnings: list[str] = []

    def _prove(self) -> None:
        """A turn of the whole stream must change no logit."""
        d = self.base.shape.d_model
        axis = np.random.default_rng(self.seed).normal(size=(d, d)) / d**0.5
        r, _ = np.linalg.qr(np.eye(d) + axis - axis.T)
        batch = self.base.batches(self.read.prompts.limit(1), batch_size=1)[0]
        want = self._logits(batch)
        self._write(lambda n: turns.turned(n, self.now, self.now, self.sides[n], _t(r)))
        off = float((self._logits(batch) - want).abs().max() / want.abs().max())
        self._write(self.start)
        digit = max(torch.finfo(w.dtype).eps for w in self.work.weights().values())
        if not off < max(TOLERANCE, ROUNDINGS * digit):
            raise InputError(
                f"turning the stream of this {self.base.shape.family} model with its weights changes logits by "
                f"{off:.2g} of the largest: a rotated merge is not defined for it; `merge` interpolates without"
            )

    def _logits(self, batch: TokenBatch) -> Tensor:
        found = self.work.run(batch, logits="all").logits
        assert found is not None
        return found

    def _write(self, value: turns.Weights) -> None:
        """Every weight anew, one after the other; gains, on which others rest, keep their value or come last."""
        for name in sorted(self.sides, key=lambda n: self.sides[n].kind == "gain"):
            weight = self.work.weights()[name]
            weight.data.copy_(value(name).to(weight.dtype))

    def of_checkpoints(self) -> list[dict[str, Any]]:
        """NLL of every checkpoint itself; its states are kept."""
        rows: list[dict[str, Any]] = []
        known: list[list[str]] = []
        for checkpoint, step in zip(self.checkpoints, self.steps, strict=True):
            model: Model = self._load(checkpoint)
            known.append(reading.pair_warnings(self.base, model))
            self.states.append(self.read.states(model))
            rows += [{**r, "variant": "checkpoint", "source_step": step} for r in self.read.nll(model)]
        self.warnings = known[0] if all(known) else []  # a stream of the base alone
        return rows

    def merged(self, variant: str, weight: float, out: str | None) -> list[dict[str, Any]]:
        """NLL after each checkpoint of the stream."""
        self._write(self.start)
        rows: list[dict[str, Any]] = []
        for number, step in enumerate(progress(self.steps, f"merge, {variant}", total=len(self.steps))):
            rotation = self._rotation(variant, number)
            self._step(variant, number, rotation, weight)
            rows += [{**r, "variant": variant, "source_step": step} for r in self.read.nll(self.work)]
        if out is not None:
            self.work.backend.plain.save_pretrained(out)
            self.work.tokenizer.save_pretrained(out)
        return rows

    def _rotation(self, variant: str, number: int) -> Tensor:
        d = self.base.shape.d_model
        if variant == "linear":
            return _t(np.eye(d))
        own, theirs = self.read.states(self.work), self.states[number]
        k = self.components or min(d, max(2, own.shape[0] * own.shape[1] // 3))
        r, inner, basis, fit = turns.rotation_between(own, theirs, k)
        if variant == "aligned":
            self.turned.append((turns.angle_of(inner), fit, len(inner)))
        return _t(turns.widened(turns.random_turn(inner, self.seed), basis) if variant == "random" else r)

    def _step(self, variant: str, number: int, rotation: Tensor, weight: float) -> None:
        theirs = self.stored[number]
        form = turns.update_turned if variant in ("rotated", "linear") else turns.turned

        def moved(name: str) -> Tensor:
            before = self.now(name).double()
            return before + weight * (form(name, theirs, self.now, self.sides[name], rotation) - before)

        self._write(moved)

    def angles(self) -> xr.Dataset:
        """angle, angle_chance and fit of the aligned stream; fitted to all states, so without interval."""
        columns = {
            "angle": ([a for a, _, _ in self.turned], "rad", "angle of the rotation of the stream"),
            "angle_chance": ([turns.angle_of_chance(k) for _, _, k in self.turned], "rad", "that of unrelated bases"),
            "fit": ([f for _, f, _ in self.turned], "1", "share of the checkpoint's states that the rotation explains"),
        }
        data = xr.Dataset(coords={"source_step": self.steps})
        for name, (values, unit, label) in columns.items():
            data[name] = ("source_step", np.asarray(values), {"units": unit, "long_name": label})
            for suffix in ("ci_low", "ci_high"):
                data[f"{name}_{suffix}"] = ("source_step", np.full(len(values), np.nan))
            data[f"{name}_n"] = ("source_step", np.full(len(values), len(self.states[0])))
        return data


def _named(stored: Any, own: Mapping[str, Tensor]) -> turns.Weights:
    """Stored weights under the names of the model they are merged into, on the CPU; a tied head is the embedding."""

    def of(name: str) -> Tensor:
        known = next((n for n in (name, f"model.{name}", name.removeprefix("model.")) if n in stored), None)
        if known is None and name.split(".")[-2] in families.UNEMBEDDINGS:
            known = next((n for n in stored if n.split(".")[-2] in families.EMBEDDINGS), None)
        found = None if known is None else stored[known]
        if found is None or found.shape != own[name].shape:
            raise InputError(f"{stored.checkpoint.label} has no {name} of this shape: not one architecture")
        return found.cpu()

    return of


def _own(base: Model, loaded: Model) -> Model:
    """A model of the base's weights to write into, its head apart from the embedding."""
    made = probe.Model.wrap(turns.untied(loaded.backend.plain), base.tokenizer, backend=base.backend_name, check=False)
    made.framing = base.framing
    return made


def _t(rotation: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rotation))


def _claims(table: pd.DataFrame) -> list[Claim]:
    """Of the whole stream: whether alignment fits better than none and than chance; whether it outdoes the last."""
    last = table[table["source_step"] == table["source_step"].max()]
    each = last.assign(nll=last["nll_nats"] / last["n_tokens"]).pivot_table("nll", "item", "variant", aggfunc="mean")
    said: Fields = {"n": len(each), "unit": "nats per token", "family": "2 comparisons"}
    aligned = "merging in one basis fits the answers better than linear merging"
    beyond = "the aligned merge fits the answers better than the last checkpoint"
    if len(each) < FEWEST:
        why, needs = f"{len(each)} items are too few", f"at least {FEWEST} items"
        return [Claim(k, UNJUDGED, w, why=why, needs=needs, n=len(each)) for k, w in
                (("basis", aligned), ("beyond", beyond))]  # fmt: skip
    linear, random, checkpoint = (
        mean_of_items((each[v] - each["aligned"]).to_numpy()[:, None], level=1 - 0.05 / 2)
        for v in ("linear", "random", "checkpoint")
    )
    is_basis = linear.ci_low[0] > 0 and random.ci_low[0] > 0
    return [
        _said("basis", is_basis, aligned, linear, {**said, "control": "no rotation, and one of equal angles",
                                                   "estimand": "NLL of the linear merge minus the aligned one"}),
        _said("beyond", checkpoint.ci_low[0] > 0, beyond, checkpoint,
              {**said, "control": "the last checkpoint alone", "estimand": "its NLL minus that of the aligned merge"}),
    ]  # fmt: skip


def _said(kind: str, is_found: bool, what: str, at: Any, said: Fields) -> Claim:
    bounds = {"effect": float(at.value[0]), "low": float(at.ci_low[0]), "high": float(at.ci_high[0])}
    return Claim(kind, FOUND if is_found else NONE, what if is_found else f"that {what}", **bounds, **said)


def figures(result: Result) -> dict[str, Figure]:
    """NLL along the stream by variant, and the angle of the rotation beside that of unrelated bases."""
    rows = result.summary()
    facet = ["group", "answer_kind", *(["step"] if "step" in rows else [])]
    nll = rows[rows["quantity"] == "nll_nats"]
    turned = rows[rows["quantity"].isin(["angle", "angle_chance"])]
    dash = "step" if "step" in rows else None
    return {
        "nll": curve(nll, x="source_step", color="variant", facet=facet, title="NLL of the answers along the stream"),
        "angle": curve(turned, x="source_step", color="quantity", dash=dash, unit="rad", y_title="angle",
                       title="Angle of the rotation of the stream"),
    }  # fmt: skip
