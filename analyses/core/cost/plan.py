"""What a run or a sweep will take on this machine, before any weights are loaded.

Sizes come from `config.json` and the headers of the weight files, token counts from the tokenizer, rates from a
second of measurement.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import probe
from analyses.core.analysis import checked_options, get
from analyses.core.cost.estimates import Cost, cost
from analyses.core.cost.rates import Rates, measured
from analyses.core.work import Case, Size
from probe import devices, families
from probe.checkpoints.tokenizers import read_tokenizer
from probe.dtypes import dtype_named
from probe.errors import InputError
from probe.lazily import torch
from probe.prompts import Prompts
from probe.shape import ModelShape
from probe.tokens import SPANS, tokenize

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis
    from probe import Checkpoint, Prompts
    from probe.prompts import Item

SLACK = 1.25  # measured peaks were up to 1.23 of the formula: what loading maps, what the allocator keeps
EMBEDDINGS = (*families.EMBEDDINGS, *families.UNEMBEDDINGS)


@dataclass(frozen=True)
class Plan:
    """What a run over a series takes.

    Attributes:
        analysis: its name.
        cost: of one member (a checkpoint, or a pair).
        members: checkpoints or pairs.
        n_items: items, of `tokens` tokens on average.
        rates: measured here.
        memory: bytes that may be used.
        n_layers: blocks of the model.
        shares: members of a sweep share passes (see `analyses.core.running.sharing`).
    """

    analysis: str
    cost: Cost
    members: int
    n_items: int
    tokens: float
    rates: Rates
    memory: float
    n_layers: int = 0
    shares: bool = False

    @property
    def seconds(self) -> dict[str, float]:
        """Reading, matrix products, and weights read again for every generated token; of all members."""
        one = self.cost
        read = self.members + one.models - 1  # the base stays, unless checkpoints take turns
        if one.models > 1 and self.choice == "one":
            read = one.models * self.members
        return {
            "read": read * (one.read_bytes / max(1, one.models) / self.rates.read + one.proofs * self.rates.proof),
            "compute": self.members * self.compute,
            "generate": self.members * one.streamed_bytes / self.rates.memory,
        }

    @property
    def compute(self) -> float:
        """Seconds of the operations of one member; passes over a checkpoint of two members are made once."""
        head, models = self.cost.head_flops, self.cost.models
        passed = (self.members + models - 1) / (models * self.members) if self.shares else 1.0
        return passed * (self.cost.flops - head) / self.rates.flops + head / (self.rates.head or self.rates.flops)

    def peak(self, hold: Literal["both", "one"]) -> float:
        """Memory at the worst moment; a swap in a sweep holds the next checkpoint beside those in use."""
        held = 1 if hold == "one" else self.cost.models + (self.members > 1)
        return SLACK * self.cost.peak_bytes(held)

    @property
    def choice(self) -> Literal["both", "one", "neither"]:
        """How many checkpoints to hold: both if that fits, else one at a time where the analysis can."""
        if self.peak("both") <= self.memory:
            return "both"
        can = self.cost.spill_bytes is not None
        return "one" if can and self.peak("one") <= self.memory else "neither"


def plan(
    name: str,
    *,
    checkpoints: Any,
    prompts: Prompts | str | Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    memory: float | None = None,
    limit: int | None = None,
    pairs: Literal["first", "adjacent", "all"] = "first",
    rates: Rates | None = None,
    **options: Any,
) -> Plan:
    """The plan of an analysis over a series of checkpoints.

    Args:
        name: analysis, as in `probe list`.
        checkpoints: a folder (see `probe.discover`) or a list.
        prompts: the items; needed where the analysis takes prompts.
        dtype: of the weights in memory.
        device: where rates and free memory are taken.
        memory: bytes that may be used; default what is free.
        limit: use only the first items.
        pairs: which checkpoints of a series are compared, where the analysis takes two.
        rates: instead of measuring.
        options: of the analysis.

    Raises:
        InputError: an analysis without a model, one that reads a rollout log, a checkpoint that is not whole.
    """

    of = get(name)
    models = sum(i.kind == "Model" for i in of.inputs)
    if not models or any(i.kind in ("Rollouts", "Checkpoints") for i in of.inputs):
        taken = ", ".join(i.kind for i in of.inputs)
        raise InputError(f"{name} takes {taken}: a plan is made for analyses of checkpoints and prompts")
    series = probe.discover(checkpoints)
    size, stored = sizes(series[0])
    chosen = checked_options(of, options)
    case = case_of(size, models, series[0], _items(of, prompts, limit), chosen)
    dtype = dtype_named(dtype)
    one = cost(of, case, dtype, stored)
    found = rates or measured(dtype, device, series[0], case)
    free = memory if memory is not None else _free(device)
    shares = models == 2 and pairs != "all" and bool(of.reads and of.reads(chosen))
    return Plan(
        name, one, _members(len(series), models, pairs), case.n_items, case.tokens, found, free, case.n_layers, shares
    )


def _members(checkpoints: int, models: int, pairs: str) -> int:
    """How often the analysis is done; with the first of a series every one is compared, itself too."""
    if models == 1 or (checkpoints != 2 and pairs == "first"):
        return checkpoints
    return math.comb(checkpoints, 2) if pairs == "all" else checkpoints - 1


def weights_fit(series: Sequence[Checkpoint], device: str) -> bool:
    """True where memory is so ample that no plan is needed: eight times the largest checkpoint's weight files."""
    return 8 * max(map(_bytes, series)) < _free(device)


def _bytes(checkpoint: Checkpoint) -> float:
    try:
        return float(sum(f.stat().st_size for f in checkpoint.weight_files))
    except InputError:  # what is wrong with it is told where it is loaded
        return 0.0


def sizes(checkpoint: Checkpoint) -> tuple[Size, float]:
    """Sizes of a model and bytes of its weight files, from config.json and the headers alone.

    Of pickles and shards, whose headers are no plain text, the configuration's own model is counted, without values.
    """

    config: dict[str, object] = json.loads((checkpoint.config_folder / "config.json").read_text())
    shape = ModelShape.of(SimpleNamespace(**_named(config)))
    files = checkpoint.weight_files
    stored = sum(f.stat().st_size for f in files)
    tensors: dict[str, int] = {}
    for file in (f for f in files if f.suffix == ".safetensors"):
        tensors |= _matrices(file)
    tensors = tensors or _empty(checkpoint.config_folder)
    inner = sum(n for name, n in tensors.items() if n > 0 and not any(e in name.split(".") for e in EMBEDDINGS))
    return Size(shape, inner / shape.n_layers, sum(map(abs, tensors.values()))), stored


def _named(config: Mapping[str, object]) -> dict[str, Any]:
    """GPT-2's own names of its sizes under the common ones."""
    own = {"n_embd": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"}
    own["n_positions"] = "max_position_embeddings"
    return {**config, **{own[k]: v for k, v in config.items() if k in own}}


def _matrices(file: Path) -> dict[str, int]:
    """Numbers of elements of a file's tensors; those of vectors (norms, biases) are negative."""
    with file.open("rb") as handle:
        header: dict[str, Any] = json.loads(handle.read(struct.unpack("<Q", handle.read(8))[0]))
    found: dict[str, int] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            n = 1
            for side in entry["shape"]:
                n *= side
            found[name] = n if len(entry["shape"]) > 1 else -n
    return found


def _empty(folder: Path) -> dict[str, int]:
    """What `_matrices` gives, of a model built without memory from its configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    return {n: p.numel() if p.ndim > 1 else -p.numel() for n, p in empty.named_parameters()}


def _items(of: Analysis, prompts: probe.Prompts | str | Path | None, limit: int | None) -> probe.Prompts | None:

    if not any(i.kind == "Prompts" for i in of.inputs):
        return None
    if prompts is None:
        raise InputError(f"{of.name} reads prompts: give the file (--prompts)")
    read = prompts if isinstance(prompts, probe.Prompts) else probe.Prompts.read(prompts)
    return read if limit is None else read.limit(limit)


def case_of(
    size: Size,
    models: int,
    checkpoint: Checkpoint,
    prompts: Prompts | None,
    options: Mapping[str, Any],
) -> Case:
    if prompts is None:
        return Case(size, models, 0, 0, 0, 0, options)
    prompt, answer = _lengths(checkpoint, prompts.items, size.shape.n_ctx, options)
    total = sorted(p + a for p, a in zip(prompt, answer, strict=True))
    batch, n = int(options.get("batch_size", 1)), len(total)
    padded = sum(max(total[i : i + batch]) * len(total[i : i + batch]) for i in range(0, n, batch))
    return Case(size, models, sum(prompt) / n, sum(answer) / n, padded / n, n, options)


def _lengths(
    checkpoint: Checkpoint, items: Sequence[Item], n_ctx: int, options: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """Tokens of prompt and answer of every item, as the analysis would make them."""

    given = {k: options[k] for k in ("template", "boundary", "include_eos") if k in options}
    some = tuple(
        replace(i, answer="-") if i.abstain else i for i in items
    )  # an unanswerable item is asked all the same
    encoded = tokenize(read_tokenizer(checkpoint), Prompts(some), max_length=n_ctx, **given)
    inside = {SPANS.index("template"), SPANS.index("prompt")}
    prompt = [sum(s in inside for s in e.span) for e in encoded]
    return prompt, [len(e.ids) - p for e, p in zip(encoded, prompt, strict=True)]


def _free(device: str) -> float:
    return float(devices.free_bytes(device))
