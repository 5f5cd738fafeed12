"""Generation against transformers' `generate`: prompts whose answers have 5 to 120 tokens, greedy and in groups.

The model is random but for a countdown planted in its embeddings: a token of count k is followed by one of the eight
of count k - 1, and count 0 by the end, so that a prompt's last token says how long its answer is and both sides draw
answers of the same lengths. Least work: a batch that waits for its longest row computes twice the tokens that are
wanted; beyond that, more rows share each reading of the weights.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from probe import Model, Prompts
from tests import tiny

if TYPE_CHECKING:
    from probe.completions import Completions

N_PROMPTS, GROUPS, SAMPLES, SHORTEST, LONGEST, ROWS, REPEATS = 256, 32, 8, 5, 120, 32, 3
N_LAYERS, D_MODEL, D_VOCAB, SYNONYMS = 6, 256, 8000, 8


def measure() -> list[dict[str, Any]]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        root = counting(Path(folder))
        return measured(root)


def counting(folder: Path) -> Path:
    """Folder of the model that counts down."""
    counts = [f"c{k}s{j}" for k in range(LONGEST) for j in range(SYNONYMS)]
    words = [*counts, *(f"w{n}" for n in range(D_VOCAB - len(counts) - 3))]
    built = tiny.model(
        "llama", vocab_size=D_VOCAB, max_position_embeddings=512, eos_token_id=1, num_hidden_layers=N_LAYERS,
        hidden_size=D_MODEL, intermediate_size=704, num_attention_heads=8, head_dim=32,
    )  # fmt: skip
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(LONGEST, D_MODEL, generator=draw)
    with torch.no_grad():
        rows = base.repeat_interleave(SYNONYMS, 0)
        embed, head = built.get_input_embeddings().weight, built.get_output_embeddings().weight
        embed[3 : 3 + len(counts)] += 30 * rows
        head[3 : 3 + len(counts) - SYNONYMS] += 0.3 * rows[SYNONYMS:]
        head[1] += 0.3 * base[0]
    built.save_pretrained(folder)
    tiny.word_tokenizer(words).save_pretrained(folder)
    return folder


def asked(n: int, words: tuple[int, int] = (16, 64), seed: int = 0) -> Prompts:
    """Prompts of so many words, in any order, that end in the count of tokens they want."""
    draw = np.random.default_rng(seed)
    wanted = np.linspace(SHORTEST, LONGEST, n).astype(int)
    texts = [
        " ".join([*(f"w{w}" for w in draw.integers(0, 5000, draw.integers(words[0], words[1] + 1))), f"c{k - 1}s0"])
        for k in draw.permutation(wanted)
    ]
    return Prompts.of([{"id": str(i), "prompt": t, "answer": "-"} for i, t in enumerate(texts)])


def peer(plain: Any, tokenizer: Any, prompts: Prompts, samples: int) -> list[list[int]]:
    """transformers' own way: batches of as many prompts as make 32 rows, each until its longest row has ended."""
    out: list[list[int]] = []
    size = ROWS // samples
    drawn = {"do_sample": True, "top_k": 0, "num_return_sequences": samples} if samples > 1 else {"do_sample": False}
    for start in range(0, len(prompts.items), size):
        texts = [i.prompt for i in prompts.items[start : start + size]]
        ids = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        with torch.inference_mode():
            found = plain.generate(
                input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=LONGEST + 8,
                pad_token_id=0, **drawn,
            )  # fmt: skip
        for row in found[:, ids["input_ids"].shape[1] :].tolist():
            out.append(row[: row.index(1) + 1] if 1 in row else row)
    return out


def measured(root: Path) -> list[dict[str, Any]]:
    """Ratios of the peer's processor time to ours, on one thread."""
    torch.manual_seed(0)
    plain: Any = AutoModelForCausalLM.from_pretrained(root, attn_implementation="sdpa").eval()
    model = Model.load(root, attn_implementation="sdpa", check=False)
    many, groups, long = asked(N_PROMPTS), asked(GROUPS), asked(GROUPS, (128, 256))
    most: dict[str, Any] = {"max_new_tokens": LONGEST + 8}
    drawn: dict[str, Any] = {**most, "temperature": 1.0, "n_samples": SAMPLES}
    at_32 = "32 rows on both sides", lambda: model.generate(many, batch_size=ROWS, **most), 1.4
    chosen = "rows of our own choice", lambda: model.generate(many, **most), 2.0
    short = f"sampled groups of {SAMPLES}, prompts of 16 to 64 tokens", lambda: model.generate(groups, **drawn), 3.0
    far = f"sampled groups of {SAMPLES}, prompts of 128 to 256 tokens", lambda: model.generate(long, **drawn), 3.0
    return [
        *_rows([at_32, chosen], lambda: peer(plain, model.tokenizer, many, 1), 1),
        *_rows([short], lambda: peer(plain, model.tokenizer, groups, SAMPLES), SAMPLES),
        *_rows([far], lambda: peer(plain, model.tokenizer, long, SAMPLES), SAMPLES),
    ]


Way = tuple[str, Callable[[], "Completions"], float]


def _rows(ways: list[Way], theirs: Callable[[], list[list[int]]], samples: int) -> list[dict[str, Any]]:
    """A row a way of ours, all against the same runs of the peer, one after the other."""
    seconds, other, mine = list[list[float]](), list[list[int]](), dict[str, list[list[int]]]()
    for _ in range(REPEATS):
        took, other = _timed(theirs)
        seconds.append([took])
        for name, ours, _ in ways:
            took, done = _timed(ours)
            seconds[-1].append(took)
            mine[name] = [list(c.ids) for c in done]
    times = np.array(seconds)
    return [
        _row(name, bound, times[:, 0], times[:, n], mine[name], other, samples)
        for n, (name, _, bound) in enumerate(ways, 1)
    ]


def _row(
    name: str, bound: float, theirs: np.ndarray, ours: np.ndarray, mine: list[list[int]], other: list[list[int]],
    samples: int,
) -> dict[str, Any]:  # fmt: skip
    low, median, high = np.quantile(theirs / ours, [0.25, 0.5, 0.75])
    same = sum(a == b for a, b in zip(mine, other, strict=True))
    lengths = [len(x) for x in mine]
    told = f"{same} of {len(mine)} texts identical" if samples == 1 else "draws of different generators"
    return {
        "name": f"transformers' generate / ours, {name}",
        "ratio": float(median),
        "spread": f"{low:.2f}-{high:.2f}",
        "bound": f">= {bound:g}",
        "holds": bool(median >= bound) and (samples > 1 or same == len(mine)),
        "note": (
            f"{len(mine)} answers of {min(lengths)} to {max(lengths)} tokens ({sum(lengths)}; the peer's "
            f"{sum(map(len, other))}), {told}; llama, {N_LAYERS} layers, d {D_MODEL}, vocabulary {D_VOCAB}, fp32, "
            f"sdpa, one thread, {REPEATS} repetitions; peer {np.median(theirs):.1f} s of CPU"
        ),
    }


def _timed(step: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and what came of it."""
    gc.collect()
    start = time.process_time()
    found = step()
    return time.process_time() - start, found
