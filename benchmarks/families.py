"""What every model family can be asked here: `python -m benchmarks.families` writes the table of docs/families.md.

Tiny random models (`tests/zoo.py`), both backends, numbers against plain transformers run one text at a time without
padding. Random weights show that tensors are the right ones and numbers agree; they say nothing of a trained model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probe import Model, Prompts, patch
from probe.backends import NAMES
from probe.check import prove_opened
from probe.errors import InputError, ProbeError
from probe.replay import Clean, answer_logprob, replay
from probe.sites import KINDS, READ_ONLY
from probe.tokens import TokenBatch
from tests import tiny, zoo

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
TEXTS = (
    "what is 3 plus 7 ?",
    "the quick brown fox jumps over the lazy dog near",
    "Ann has 12 figs . buys 5 .",
    "0 1 2",
)
ANSWERS = (" ans 10", " the river bank", " loses 3", " 3 4 5 6")
SHORT = {"transformer_lens": "TransformerLens", "nnsight": "nnsight"}
COMMON = tuple(k for k in KINDS if k not in ("mixer_out", *READ_ONLY))


@dataclass(frozen=True)
class Row:
    """What was found of one family; differences are the largest over texts and backends."""

    family: str
    loads: dict[str, str]
    lacking: str = ""
    more: str = ""
    replay: str = ""
    nll_sum: float = float("nan")
    patched: float = float("nan")
    half: float = float("nan")

    def cells(self) -> list[str]:
        """The cells of its line."""
        refused = {name: words for name, words in self.loads.items() if words}
        loads = "both" if not refused else next((SHORT[n] for n in NAMES if n not in refused), "no")
        words = next(iter(refused.values()), "")
        numbers = [f"{x:.0e}" if x == x else "" for x in (self.nll_sum, self.patched, self.half)]
        return [f"`{self.family}`", loads, self.more, self.lacking or words, self.replay, *numbers]


def prompts() -> Prompts:
    """Four texts of different lengths with their answers."""
    rows = [{"id": str(n), "prompt": p, "answer": a} for n, (p, a) in enumerate(zip(TEXTS, ANSWERS, strict=True))]
    return Prompts.of(rows)


def row_of(family: str) -> Row:
    """One family tried."""
    try:
        plain = zoo.model(family)
    except (ValueError, TypeError, AttributeError, RuntimeError, KeyError, ImportError, IndexError) as error:
        return Row(family, dict.fromkeys(NAMES, f"not built at tiny size ({type(error).__name__})"))
    loads: dict[str, str] = {}
    models: list[Model] = []
    for backend in NAMES:
        try:
            model = Model.wrap(plain, tiny.tokenizer(), backend=backend)
            prove_opened(model)
            models.append(model)
            loads[backend] = ""
        except (InputError, ProbeError) as error:
            loads[backend] = str(error).split(". ")[-1] if isinstance(error, ProbeError) else str(error)
    if not models:
        return Row(family, loads)
    half = [_half(plain, backend) for backend in NAMES if not loads[backend]]
    how, patched = patching(models[0])
    nll = max(_nll(model, plain) for model in models)
    return Row(family, loads, lacking(models[0]), extra(models[0]), how, nll, patched, max(half))


def lacking(model: Model) -> str:
    """Common kinds of site that no block, or not every block, has."""
    none = [k for k in COMMON if not model.sites(k)]
    some = [k for k in COMMON if 0 < len(model.sites(k)) < model.shape.n_layers and _per_block(k)]
    parts = [", ".join(none)] if none else []
    if some:
        parts.append(f"in some blocks: {', '.join(some)}")
    return "; ".join(parts)


def _per_block(kind: str) -> bool:
    """Whether a kind exists once per block."""
    return kind not in ("embed", "ln_final", "logits")


def extra(model: Model) -> str:
    """Kinds beyond those of a plain decoder."""
    return ", ".join(k for k in ("mixer_out", *READ_ONLY) if model.sites(k))


def patching(model: Model) -> tuple[str, float]:
    """How replay runs, and its largest difference from whole passes over one patch at every kind of site."""
    nan = float("nan")
    if not model.sites("resid_pre"):
        return "refused", nan
    clean = Clean(model, _batch(model))
    metric = answer_logprob(clean.batch)
    worst = 0.0
    for site in {s.kind: s for s in reversed(model.sites()) if s.kind not in (*READ_ONLY, "logits")}.values():
        value = clean.value(site)
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        edit = patch(site, value + 0.3 * noise, [1])
        logits = model.run(clean.batch, edits=[edit]).logits
        assert logits is not None
        item, pos = metric.rows.nonzero(as_tuple=True)
        scores = torch.full(metric.rows.shape, nan)
        scores[item, pos] = metric.score(logits[item, pos], item, pos).float()
        worst = max(worst, float((replay(clean, [edit], metric)[0] - scores.nanmean(1)).abs().max()))
    return "whole passes" if clean.why_whole else "rows", worst


def _nll(model: Model, plain: Any) -> float:
    """Largest difference of an answer's summed nll (nats) from plain transformers, texts alone and unpadded."""
    return max(abs(a - b) for a, b in pairs(model, plain))


def _half(plain: Any, backend: str) -> float:
    """The same in bfloat16 against transformers in bfloat16, mean per token of the answer."""
    import copy

    other = copy.deepcopy(plain).to(torch.bfloat16)
    model = Model.wrap(other, tiny.tokenizer(), backend=backend, check=False)
    tokens = [int(n) for n in answer_logprob(_batch(model)).rows.sum(-1)]
    return max(abs(a - b) / n for (a, b), n in zip(pairs(model, other), tokens, strict=True))


def _batch(model: Model) -> TokenBatch:
    return model.batches(prompts(), batch_size=4)[0]


def pairs(model: Model, plain: Any) -> Sequence[tuple[float, float]]:
    """Each answer's summed nll (nats) by the handle, batched and padded, and by a model alone."""
    batch = _batch(model)
    metric = answer_logprob(batch)
    logits = model.run(batch).logits
    assert logits is not None
    out: list[tuple[float, float]] = []
    for n, mask in enumerate(batch.mask):
        ids, rows = batch.ids[n][mask], metric.rows[n][mask]
        with torch.no_grad():
            alone = plain(input_ids=ids[None], use_cache=False).logits[0].float()
        both = (logits[n][mask].float(), alone)
        sums = [-float(x.double().log_softmax(-1)[:-1].gather(1, ids[1:, None])[rows[:-1]].sum()) for x in both]
        out.append((sums[0], sums[1]))
    return out


def main(names: Sequence[str]) -> None:
    """Write the lines of these families (of all, if none is named) into the page's table; others stay as they are."""
    before, _, rest = PAGE.read_text().partition("<!-- table -->\n")
    table, _, after = rest.partition("<!-- end -->")
    known = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    for family in names or zoo.CAUSAL:
        known[family] = f"| {' | '.join(row_of(family).cells())} |"
        print(known[family], flush=True)
    head = ["family", "loads", "also has", "lacks (refused by name)", "replay", "nll", "patch", "bf16"]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head))]
    lines += [known[family] for family in sorted(known)]
    PAGE.write_text(before + "<!-- table -->\n" + "\n".join(lines) + "\n<!-- end -->" + after)


if __name__ == "__main__":
    main(sys.argv[1:])
