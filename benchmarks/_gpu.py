"""The tests marked `gpu` and timings at the shape of a 7B model, on a real device: `make gpu`.

Writes GPU.md. Tests run on the device that PROBE_TEST_DEVICE names (`cuda:0`); the model is random, in bfloat16, of
Qwen2.5-7B's shape, with as many of its 28 blocks as fit. Ratios are against plain transformers on the same work in
the same process. Where there is no such device the page says so, and the exit code is 1.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from analyses.core.reading.readouts import divergences, streamed
from benchmarks._rows import FOLDER, cell, machine
from probe import InputError, Item, Model, Prompts, devices, patch
from probe.replay import Clean, answer_logprob, replay

PAGE = FOLDER / "GPU.md"
COLUMNS = ("what", "seconds", "ratio", "note")
TESTS_LIMIT = 330  # of the 600 seconds that all may take; the timings end well within the rest
Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """Sizes of the model timed, and of the batch it reads."""

    layers: int = 28
    width: int = 3584
    heads: int = 28
    kv_heads: int = 4
    inner: int = 18944
    vocab: int = 152064
    items: int = 8
    length: int = 256
    new_tokens: int = 32
    repeats: int = 5

    def block_bytes(self) -> int:
        """Of one block in bfloat16."""
        head = self.width // self.heads
        attention = self.width * head * (2 * self.heads + 2 * self.kv_heads)
        return 2 * (attention + 3 * self.width * self.inner)

    def fitting(self, free: int) -> Shape:
        """With as many blocks as two thirds of the free memory hold."""
        room = int(0.66 * free) - 4 * self.vocab * self.width
        return replace(self, layers=max(1, min(self.layers, room // self.block_bytes())))


def main() -> int:
    """Run both halves and write the page; 1 if something failed or there is no device."""
    device = os.environ.get("PROBE_TEST_DEVICE", "cuda:0")
    try:
        devices.check(device)
    except InputError as error:
        PAGE.write_text(page([], f"Not run: {error}.", ""))
        print(error, file=sys.stderr)
        return 1
    code, told = tested(device)
    rows = list(measured(device, Shape().fitting(devices.free_bytes(device))))
    on = f"{torch.cuda.get_device_name(device) if device.startswith('cuda') else device}; {machine()}"
    PAGE.write_text(page(rows, told, f"{datetime.date.today()}, {on}"))
    print(PAGE.read_text())
    return code


def tested(device: str) -> tuple[int, str]:
    """Exit code of the tests marked `gpu`, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            command, env={**os.environ, "PROBE_TEST_DEVICE": device}, cwd=Path.cwd(), capture_output=True, text=True,
            check=False, timeout=TESTS_LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return 1, f"Tests marked `gpu`: not done after {TESTS_LIMIT} s."
    print(done.stdout)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "no output")
    return done.returncode, "\n".join([f"Tests marked `gpu`: {last.strip('= ')}.", *(f"- {line}" for line in failed)])


def measured(device: str, shape: Shape) -> Iterator[Row]:
    """Timings of one random model: reading, unembedding, patching, generating."""
    made = built(device, shape)
    model = Model.wrap(made, _numbers(), check=False)
    words = " ".join(str(n % 90) for n in range(shape.length - 4))
    items = tuple(Item(str(n), f"{n} {words}", " 1 2 3") for n in range(shape.items))
    (batch,) = model.batches(Prompts(items), batch_size=shape.items)
    batch = batch.to(device)
    last = f"resid_post.{shape.layers - 1}"
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": batch.position_ids}
    size = f"{shape.layers} blocks of {shape.width}, {shape.items} x {batch.ids.shape[1]} tokens"

    def timed(call: Callable[[], Any]) -> float:
        return seconds(call, device, shape.repeats)

    with torch.no_grad():
        plain = timed(lambda: made.model(**given, use_cache=False))
        everything = [f"{kind}.{n}" for n in range(shape.layers) for kind in ("resid_post", "mlp_post")]
        read = timed(lambda: model.run(batch, read=everything, logits="none"))
        yield _row("a pass that reads two sites a block / transformers' pass", read, plain, size)
        states = model.run(batch, read=[last], logits="none")[last].flatten(0, 1)
        targets = batch.ids.flatten()
        lens = timed(lambda: streamed(states, model.unembed, targets))
        alone = timed(lambda: [model.unembed(rows) for rows in states.split(64)])
        yield _row("lens of a layer / its matrix products alone", lens, alone, f"{len(states)} rows of {shape.vocab}")
        logits = model.unembed(states[: 2 * shape.items]).float()
        yield _row("divergence of two readouts", timed(lambda: divergences(logits, logits.flip(0))), None, "per call")
    yield from _patched(model, batch, timed)
    yield from _generated(model, made, items, given, shape, timed)


def _patched(model: Model, batch: Any, timed: Callable[[Callable[[], Any]], float]) -> Iterator[Row]:
    clean, metric = Clean(model, batch), answer_logprob(batch)
    positions = range(0, int(batch.mask.sum(1).min()) - 8, max(1, int(batch.mask.sum(1).min()) // 8))
    layers = range(0, model.shape.n_layers, max(1, model.shape.n_layers // 4))
    edits = [
        patch(f"resid_pre.{n}", clean.value(model.site(f"resid_pre.{n}")).roll(1, 0), [p])
        for n in layers
        for p in positions
    ]
    fast = timed(lambda: replay(clean, edits, metric))
    with torch.no_grad():
        full = timed(lambda: model.run(batch, edits=edits[:1], logits="none")) * len(edits)
    yield _row(f"{len(edits)} patches by replay / as many whole passes", fast, full, "one whole pass timed, times all")


def _generated(
    model: Model, made: Any, items: tuple[Item, ...], given: Any, shape: Shape, timed: Callable[..., float]
) -> Iterator[Row]:
    ours = timed(lambda: model.generate(Prompts(items), max_new_tokens=shape.new_tokens))
    theirs = None
    if hasattr(made, "generate"):
        limits = {"max_new_tokens": shape.new_tokens, "min_new_tokens": shape.new_tokens, "do_sample": False}
        ids = {n: given[n] for n in ("input_ids", "attention_mask")}
        theirs = timed(lambda: made.generate(**ids, **limits, pad_token_id=0))
    yield _row("greedy generation / transformers' generate", ours, theirs, f"{shape.new_tokens} new tokens each")


def built(device: str, shape: Shape) -> Any:
    """A random model of the shape in bfloat16, made where it will run."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "qwen2", vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2 * shape.length + shape.new_tokens, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.device(device):
        torch.manual_seed(0)
        made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    return made.to(device).eval()


def seconds(call: Callable[[], Any], device: str, repeats: int) -> float:
    """Median over repetitions, after one that is not counted; the device is waited for."""
    call()
    taken: list[float] = []
    for _ in range(repeats):
        devices.wait(device)
        start = time.perf_counter()
        call()
        devices.wait(device)
        taken.append(time.perf_counter() - start)
    return median(taken)


def _row(what: str, ours: float, theirs: float | None, note: str) -> Row:
    return {"what": what, "seconds": ours, "ratio": None if theirs is None else ours / theirs, "note": note}


def page(rows: list[Row], told: str, where: str) -> str:
    """GPU.md."""
    head = ["# On a GPU\n", "`make gpu` writes this page: the tests marked `gpu` on a real device, and timings at the",
            "shape of a 7B model in bfloat16.\n"]  # fmt: skip
    table = [f"{where}\n", f"| {' | '.join(COLUMNS)} |", "|---|---|---|---|"] if rows else []
    table += ["| " + " | ".join(cell(row[c]) for c in COLUMNS) + " |" for row in rows]
    return "\n".join([*head, *([*table, ""] if table else []), told, ""])


def _numbers() -> Any:
    """A tokenizer of whole numbers, one id each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["<pad>", "<unk>", *map(str, range(99))])}
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>")


if __name__ == "__main__":
    raise SystemExit(main())
