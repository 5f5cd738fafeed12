"""Teacher-forced scoring of MATH-500 answers: against the bare forward pass, and against lm-evaluation-harness.

Least work: one forward pass per item with the logits of every scored token. The bare pass is the plain transformers
model on the same length-sorted batches, full logits, nothing read off them. The peer scores answers only
(`loglikelihood` of the same prompt and answer, same batch size); ours scores prompt and answer, by mask and token
class, with intervals, so it does more; with `score="answer"` it scores the same tokens. All in one process on one
thread, interleaved.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

BATCH, REPEATS, N_ITEMS, CHECKPOINTS = 8, 3, 32, 10
SHAPE = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2}
SHAPE |= {"intermediate_size": 1408, "max_position_embeddings": 2048, "vocab_size": 32_768}  # 50 M parameters


# What scoring answers alone saves is the prompt's unembedding; the blocks cost both sides the same.
HEAD = "the unembedding is a third of the model's work, a smaller share saves less"


def measure() -> list[dict[str, Any]]:
    """Rows for RESULTS.md."""
    torch.set_num_threads(1)
    pairs, source = questions()
    with tempfile.TemporaryDirectory() as folder:
        return [*_timed(pairs, source), _reads(pairs, Path(folder))]


def questions() -> tuple[list[tuple[str, str]], str]:
    """(prompt, answer) pairs of MATH-500, or texts of like lengths where the file is not at hand."""
    file = Path(os.environ.get("PROBE_BENCHMARKS", "")) / "math500.json"
    if file.is_file():
        rows = json.loads(file.read_text())
        return [
            (r["prompt"] + "\nAnswer:", " " + r["answer"]) for r in rows[:: len(rows) // N_ITEMS][:N_ITEMS]
        ], "MATH-500"
    rng = np.random.default_rng(0)
    words = ["triangle", "sum", "of", "the", "integer", "x^2", "$\\frac{1}{2}$", "value", "find", "and", "1234"]
    lengths = np.clip(rng.lognormal(3.5, 0.6, N_ITEMS).astype(int), 8, 200)
    return [(" ".join(rng.choice(words, n)), f" {n}") for n in lengths], "made-up text of like lengths"


def _timed(pairs: list[tuple[str, str]], source: str) -> list[dict[str, Any]]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from analyses import get
    from probe import Item, Model, Prompts

    hf, tokenizer = _model(pairs)
    model = Model.wrap(hf, tokenizer)
    prompts = Prompts(tuple(Item(f"{i:03d}", p, a) for i, (p, a) in enumerate(pairs)))
    batches = model.batches(prompts, batch_size=BATCH)
    plain, _ = _model(pairs)
    peer = HFLM(pretrained=plain, tokenizer=tokenizer, batch_size=BATCH, max_length=2048)
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: get("perplexity")(model, prompts, batch_size=BATCH),
        "answers": lambda: get("perplexity")(model, prompts, score="answer", batch_size=BATCH),
        "bare": lambda: [_forward(plain, b) for b in batches],
        "peer": lambda: peer.loglikelihood(asked, disable_tqdm=True),
    }
    _agree(ways["answers"](), ways["peer"]())
    ways["ours"]()
    took = {name: np.empty(REPEATS) for name in ways}
    for i in range(REPEATS):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            took[name][i] = time.perf_counter() - start
    note = f"{N_ITEMS} items of {source}, {sum(b.mask.sum().item() for b in batches)} tokens, batch {BATCH}"
    return [
        _row("share of scoring that is bare forward pass", took["bare"] / took["ours"], 0.8, note),
        _row(
            "lm-evaluation-harness loglikelihood / ours, answers",
            took["peer"] / took["answers"],
            1.5,
            f"{note}; {HEAD}",
        ),
        _row("the same / ours, prompts too (more work)", took["peer"] / took["ours"], None, note),
    ]


def _model(pairs: list[tuple[str, str]]) -> tuple[Any, Any]:
    """A random Qwen2 with a tokenizer trained on the very text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator([p + a for p, a in pairs], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = Qwen2Config(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True)
    return AutoModelForCausalLM.from_config(config).eval(), tokenizer


def _forward(hf: Any, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return hf(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.position_ids).logits


def _agree(ours: Any, peer: list[tuple[float, bool]]) -> None:
    """Both score the same answers alike; else the times compare different work."""
    answers = ours.table[ours.table["mask"] == "answer"].sort_values("item")["nll_nats"].to_numpy()
    theirs = -np.array([score for score, _ in peer])
    worst = float(np.abs(answers - theirs).max())
    if worst > 1e-3:
        raise AssertionError(f"scores differ by {worst:.2e} nats: the peer tokenises the boundary otherwise")


def _reads(pairs: list[tuple[str, str]], folder: Path) -> dict[str, Any]:
    """How often a sweep reads each checkpoint's weights."""
    from analyses import sweep
    from probe import Item, Model, Prompts
    from tests import tiny

    series = tiny.series(folder / "series", steps=tuple(range(0, 10 * CHECKPOINTS, 10)), max_position_embeddings=2048)
    prompts = Prompts(tuple(Item(str(i), p, a) for i, (p, a) in enumerate(pairs[:8])))
    read: list[str] = []
    load, swap = Model.load, Model.swap

    def counted_load(checkpoint: Any, **options: Any) -> Model:
        read.append(str(checkpoint))
        return load(checkpoint, **options)

    def counted_swap(self: Model, checkpoint: Any, **options: Any) -> None:
        read.append(str(checkpoint))
        swap(self, checkpoint, **options)

    Model.load, Model.swap = counted_load, counted_swap  # type: ignore[method-assign,assignment]
    try:
        sweep("perplexity", checkpoints=series, prompts=prompts, batch_size=BATCH)
    finally:
        Model.load, Model.swap = load, swap  # type: ignore[method-assign]
    each = np.array([read.count(name) for name in set(read)])
    holds = len(each) == CHECKPOINTS and bool((each == 1).all())
    note = f"a sweep over {CHECKPOINTS} checkpoints"
    row = {"name": "reads per checkpoint", "ratio": float(each.mean()), "spread": 0.0, "bound": "= 1"}
    return {**row, "holds": holds, "note": note}


def _row(name: str, ratios: np.ndarray, bound: float | None, note: str) -> dict[str, Any]:
    low, high = np.quantile(ratios, [0.25, 0.75])
    middle = float(np.median(ratios))
    return {
        "name": name,
        "ratio": middle,
        "spread": float(high - low),
        "bound": "" if bound is None else f">= {bound}",
        "holds": None if bound is None else middle >= bound,
        "note": note,
    }
