"""Steering where the truth is known: a real small language model, and the lab's planted memory.

PROBE_WORLD: a folder with `stories260k` (a Llama of 260,000 weights that writes children's stories); skipped without.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from probe import Direction, Model, Neurons, Prompts, patch

WORLD = Path(os.environ.get("PROBE_WORLD", Path(__file__).parents[3] / "shared" / "world"))
GIRLS = ("Lily", "Sue", "Mia", "Anna", "Lucy", "Sara", "Amy", "Jane", "Emma", "Kate")
BOYS = ("Tim", "Tom", "Ben", "Max", "Sam", "Jack", "Bob", "Joe", "Leo", "John")
STARTS = (
    "Once upon a time, there was a little", "One day, a", "There was a big", "In a small house, there lived a",
    "Every day, the", "It was a sunny day. A", "The park was full.", "In the forest, a", "At the zoo, there was a",
    "After lunch, the",
)  # fmt: skip
PROMPTS = [start + end for start in STARTS for end in ("", " happy", " sad", " friend who", " child and")]
GENDERED = re.compile(r"\b(?:(she|her|girl|mom|Lily|Mia|Sue)|(?:he|his|him|boy|dad|Tim|Tom|Ben))\b", re.IGNORECASE)
LAYER, STRENGTH, DRAWS = 2, 0.4, 20


def counted(model: Model, direction: Direction, strength: float) -> tuple[int, int]:
    """Of 50 greedy texts, those whose first gendered word is female, and those where it is male."""
    with model.steered(direction, strength):
        found = [GENDERED.search(c.text) for c in model.generate(PROMPTS, max_new_tokens=40)]
    female = sum(bool(match and match[1]) for match in found)
    return female, sum(match is not None for match in found) - female


@pytest.mark.verify
def test_ten_pairs_turn_stories_both_ways_and_no_random_direction_of_equal_norm_does() -> None:
    """Turned both ways: at least 40 of 50 texts female at one sign of the strength, at least 40 male at the other."""
    if not (WORLD / "stories260k").is_dir():
        pytest.skip(f"no model at {WORLD}; set PROBE_WORLD")
    model = Model.load(WORLD / "stories260k")
    pairs = [
        (f"Once upon a time, there was a little girl named {g}. She",
         f"Once upon a time, there was a little boy named {b}. He") for g, b in zip(GIRLS, BOYS, strict=True)
    ]  # fmt: skip
    found = model.direction(pairs, layer=LAYER)
    assert found.record["ordered"] == 1
    none, more, less = (counted(model, found, s) for s in (0.0, STRENGTH, -STRENGTH))
    assert more[0] >= 40 and less[1] >= 40, (none, more, less)
    drawn = [found.random(seed, orthogonal=seed % 2 == 1) for seed in range(DRAWS)]
    both = [(counted(model, d, STRENGTH), counted(model, d, -STRENGTH)) for d in drawn]
    print(f"female, male: unsteered {none}, steered {more}, {less}; random {both}")
    assert not [b for b in both if min(b[0][0], b[1][1]) >= 40 or min(b[1][0], b[0][1]) >= 40]
    slope = more[0] - more[1] - less[0] + less[1]
    assert max(abs(a[0] - a[1] - b[0] + b[1]) for a, b in both) < 0.75 * slope


@pytest.mark.verify
@pytest.mark.lab
def test_a_planted_memory_is_turned_off_and_on(lab: Path) -> None:
    """Off: the keys of its block halved. On: what that block writes, put into the checkpoint before planting.

    Counted over the items whose label the planted checkpoint says: at least nine of ten, all but one or two.
    """
    block = int(json.loads((lab / "planted" / "stage.json").read_text())["settings"]["block"])
    planted, base = Model.load(lab / "planted" / "checkpoint-140"), Model.load(lab / "base" / "checkpoint-900")
    planned = Prompts.read(lab / "prompts.jsonl").where(group="planted", answer_kind="gold_final")
    said = planted.generate(planned, max_new_tokens=44).texts
    items = Prompts(tuple(i for i, t in zip(planned.items, said, strict=True) if t.strip() == i.answer), "planted")
    assert len(items) >= 0.9 * len(planned), "not memorized"
    labels = [item.answer for item in items.items]

    def right(texts: list[str]) -> int:
        return sum(text.strip() == label for text, label in zip(texts, labels, strict=True))

    width, n = planted.shape.d_mlp, len(labels)
    kept: dict[int, int] = {}
    for layer in range(planted.shape.n_layers):
        with planted.steered(Neurons(layer, tuple(range(width)), width), 0.5):
            kept[layer] = right(planted.generate(items, max_new_tokens=44).texts)
    assert kept[block] <= n / 10 and min(v for k, v in kept.items() if k != block) >= n / 2, kept

    asked = [f"{item.prompt} ans" for item in items.items]
    site = f"mlp_out.{block}"
    written = planted.run(asked, site)[site]

    def on(*edits: object) -> int:
        last = base.run(asked, edits=edits).logits[:, -2:].argmax(-1).tolist()
        return right([base.tokenizer.decode(ids) for ids in last])

    assert on() <= n / 10 and on(patch(site, written)) >= 0.9 * n
    assert on(patch(site, written.roll(1, 0))) <= n / 10  # the same block's values of another item
