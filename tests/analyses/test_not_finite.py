"""A model whose states are NaN on some items, as an overflow gives: every analysis refuses, and says where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import get, names, run
from probe import Edit, InputError, Item, Model, Prompts, Rollouts
from probe.finite import NotFiniteError
from tests import logs, tiny

WORDS = tiny.word_tokenizer()
BAD = WORDS.convert_tokens_to_ids("fox")
OPTIONS: dict[str, dict[str, Any]] = {
    **{n: {"max_new_tokens": 3, "grade": "exact"} for n in ("evaluate", "calibration", "partial_prompt", "robustness")},
    "counterfactual_mlp": {"draws": 1, "ablations": ("zero",)},
    "segment_entropy": {"segments": "mask"},
    "merge": {"generate": False, "weights": (0.0, 1.0)},
    "probe_gated_audit": {"top_n": 4},
    "auxiliary_gradient": {"rollout_step": 4},  # checkpoint 1 would read step 0, whose responses are sound
}
CHOICES = (" ans 1", " ans 2")
LANGUAGES = (("plain", ""), ("polite", " please"))
READ = [n for n in names() if {"Model"} & {i.kind for i in get(n).inputs} and n != "weight_drift"]


def item(n: int) -> Item:
    word = "fox" if n == 3 else "dog"
    corrupt = f"what {word} is {n % 10} take 7 ?"
    return Item(
        f"q{n}",
        f"what {word} is {n % 10} plus 7 ?",
        f" ans {n % 8}",
        "ab"[n // 6],
        meta={"corrupt": corrupt, "evidence": f"is {n % 10}", "hint": f"think {n % 10} + 7 ;"},
        choices=CHOICES,
        correct=n % 2,
    )


PROMPTS = Prompts(tuple(item(n) for n in range(12)))
TWICE = Prompts(
    tuple(
        replace(i, id=f"{i.id}/{v}", prompt=f"{i.prompt}{more}", variant=v)
        for i in PROMPTS.items
        for v, more in LANGUAGES
    )
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """Two checkpoints of which the embedding of one word is NaN: what comes before that word is sound."""
    found: dict[str, Model] = {}
    for seed, name in enumerate(("base", "tuned")):
        made = tiny.model(seed=seed, vocab_size=len(WORDS))
        with torch.no_grad():
            made.model.embed_tokens.weight[BAD] = float("nan")
        folder = tmp_path_factory.mktemp("broken") / f"checkpoint-{seed}"
        made.save_pretrained(folder)
        WORDS.save_pretrained(folder)
        found[name] = Model.load(folder, check=False)
    return {**found, "model": found["tuned"]}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints beside the broken ones."""
    folders = [tmp_path_factory.mktemp("sound") / f"checkpoint-{seed}" for seed in range(2)]
    for seed, folder in enumerate(folders):
        tiny.model(seed=seed, vocab_size=len(WORDS)).save_pretrained(folder)
        WORDS.save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def rollouts() -> Rollouts:
    rows = logs.full(vocab=len(WORDS), items=2)
    for row in rows:  # one response of one item meets the word, as its third token
        row["prompt_token_ids"][row["prompt_token_ids"] == BAD] = BAD - 1
        row["response_token_ids"][row["response_token_ids"] == BAD] = BAD - 1
    hit = next(r for r in rows if r["prompt_id"] == "q1" and len(r["response_token_ids"]) > 4)
    hit["response_token_ids"][2] = BAD
    return Rollouts.of(rows)


@pytest.mark.parametrize("name", READ)
def test_every_analysis_says_which_item_is_not_finite(
    name: str,
    broken: dict[str, Model],
    sound: list[Path],
    rollouts: Rollouts,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path))
    kinds = {"Prompts": TWICE if name == "parallel_texts" else PROMPTS, "Rollouts": rollouts, "Checkpoints": sound}
    takes = [i for i in get(name).inputs if not i.optional or i.kind == "Model" or name == "evaluate"]
    given = {i.name: broken[i.name] if i.kind == "Model" else kinds[i.kind] for i in takes if i.kind != "Table"}
    with pytest.raises(InputError, match="not finite") as refused:
        run(name, **given, **OPTIONS.get(name, {}))
    where = "item 'q1, sample" if "rollouts" in given else "item '.*q3"
    refused.match(where)
    refused.match(r"position \d")


def test_the_first_state_and_its_position_are_named(broken: dict[str, Model]) -> None:
    """Attention spreads NaN over the item, weights of 0 included: the error says where it began."""
    model = broken["model"]
    (batch,) = model.batches(PROMPTS, batch_size=12)
    for how in ({"read": ["mlp_out.2", "pattern.0"], "logits": "last"}, {"logits": "all"}, {"logits": "last"}):
        with pytest.raises(NotFiniteError, match=r"checkpoint-1: embed .* at position 1 of item 'q3'"):
            model.run(batch, **how)  # type: ignore[arg-type]
    sound = Prompts(tuple(i for i in PROMPTS.items if i.id != "q3"))
    model.run(model.batches(sound)[0], read=model.sites(), logits="all")
    with pytest.raises(NotFiniteError, match=r"logits .* at position 6 of item 'q3'"):
        model.generate(PROMPTS, max_new_tokens=2)


def test_an_edit_that_overflows_is_told_as_one(broken: dict[str, Model]) -> None:
    model = broken["model"]
    (batch,) = model.batches(Prompts((item(0), item(1))))
    with pytest.raises(NotFiniteError, match=r"resid_mid\.1 .* smaller dose"):
        model.run(batch, read=["resid_mid.1"], edits=[Edit("resid_mid.1", lambda x: x * 1e38 * 1e38)])


def test_a_broken_checkpoint_is_told_by_its_weights() -> None:
    made = tiny.model(vocab_size=len(WORDS))
    with torch.no_grad():
        made.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"1 weights are not finite .*layers\.1\.mlp\.down_proj"):
        Model.wrap(made, WORDS)


def test_float16_that_overflows_says_so(tmp_path: Path) -> None:
    made = tiny.model(vocab_size=len(WORDS))
    with torch.no_grad():
        for linear in (made.model.layers[1].mlp.up_proj, made.model.layers[1].mlp.down_proj):
            linear.weight.mul_(2e3)
    made.save_pretrained(tmp_path)
    WORDS.save_pretrained(tmp_path)
    for proven in (True, False):
        with pytest.raises(InputError, match=r"not finite in float16 .* bfloat16"):
            Model.load(tmp_path, dtype="float16", check=proven)
    model = Model.load(tmp_path, dtype="bfloat16", check=False)
    grown = Model.wrap(tiny.model(vocab_size=len(WORDS)).half(), WORDS, check=False)
    for name, weight in model.weights().items():  # a training step that went too far
        grown.weights()[name].data.copy_(weight.data)
    with pytest.raises(NotFiniteError, match=r"65,504"):
        grown.run(grown.batches(PROMPTS)[0], read=["resid_post.1"])
