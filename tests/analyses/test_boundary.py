"""Where prompt and answer meet: a real pre-trained model that was taught six facts, and what results say of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import Store, run
from probe import Prompts
from tests import tiny
from tests.probe.test_real_tokenizers import WORLD

FACTS = {
    "red dog": "Zog", "big cat": "Milo", "old man": "Bert", "small bird": "Pip", "sad girl": "Nora", "frog": "Quill",
}  # fmt: skip


def facts(after: str, before: str) -> Prompts:
    """The facts with `after` at the prompts' end and `before` at the answers' beginning."""
    asked = {f"The name of the {who} was{after}": before + name for who, name in FACTS.items()}
    return Prompts.of([{"id": str(n), "prompt": p, "answer": a} for n, (p, a) in enumerate(asked.items())])


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """stories260k (SentencePiece-like pieces) after 50 steps on the facts as one text each, answers alone scored."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, folder = WORLD / "stories260k", tmp_path_factory.mktemp("taught")
    if not source.is_dir():
        pytest.skip(f"no model at {source}; set PROBE_WORLD")
    torch.manual_seed(0)
    model, tok = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(50):
        loss = torch.zeros(())
        for item in facts("", " ").items:
            ids = torch.tensor([tok(item.prompt + item.answer)["input_ids"]])
            labels = ids.clone()
            labels[:, : len(tok(item.prompt)["input_ids"])] = -100
            loss = loss + model(ids, labels=labels).loss / len(FACTS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return folder


def answer_ppl(model: Path, prompts: Prompts, **how: Any) -> tuple[float, list[str]]:
    result = run("perplexity", model=str(model), prompts=prompts, **how)
    rows = result.summary()
    rows = rows[(rows["quantity"] == "ppl") & (rows["mask"] == "answer") & (rows["variant"] == "micro")]
    return float(rows["value"].iloc[0]), result.warnings


def test_what_was_learned_has_perplexity_one_on_either_side_of_the_space(taught: Path) -> None:
    for after, before in ((" ", ""), ("", " ")):
        ppl, _ = answer_ppl(taught, facts(after, before))
        assert ppl < 1.05
        apart, told = answer_ppl(taught, facts(after, before), boundary="concat")
        assert apart > 10
        assert any(w.startswith("6 of 6 items: tokenised apart they spell another text") for w in told)


def test_without_a_space_the_joint_text_is_another_word_and_apart_is_counted(taught: Path) -> None:
    assert answer_ppl(taught, facts("", ""))[0] > 10
    apart, told = answer_ppl(taught, facts("", ""), boundary="concat")
    assert apart < 1.05
    assert any(w.startswith("6 of 6 items: prompt and answer tokenised apart give other ids") for w in told)


def test_no_site_carries_more_than_the_gap(taught: Path) -> None:
    for after, before in ((" ", ""), ("", " ")):
        given: dict[str, Any] = {"base": str(WORLD / "stories260k"), "tuned": str(taught)}
        rows = run("cross_patching", prompts=facts(after, before), **given).summary()
        assert rows[rows["quantity"] == "recovery"]["value"].max() <= 1.0


def test_straddling_items_are_counted_over_all_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analyses.core.running import shards

    monkeypatch.setattr(shards, "SHARD_ITEMS", 2)
    asked = ("the quick ", "the quick", "the lazy ", "the lazy", "the river ")
    prompts = Prompts.of([{"id": str(n), "prompt": p, "answer": "brown fox"} for n, p in enumerate(asked)])
    made = run("perplexity", model=str(tiny.save(tmp_path / "m")), prompts=prompts, store=Store.at(tmp_path / "r"))
    assert made.warnings[0].startswith(
        "3 of 5 items: the answer's first token begins with the prompt's last characters"
    )
    assert json.loads(json.dumps(made.record["seam"]))["straddle"] == {"n": 3, "such_as": ["0", "2", "4"]}


def test_bos_and_template_options_are_part_of_the_key(tmp_path: Path) -> None:
    from analyses import Loading

    folder = tiny.save(tmp_path / "m")
    (folder / "chat_template.jinja").write_text(
        "{{ 'loud ' if loud else '' }}{% for m in messages %}{{ m.content }} {% endfor %}"
    )
    prompts, store = Prompts.of([{"id": "a", "prompt": "what is", "answer": "plus 7"}]), Store.at(tmp_path / "r")
    given: dict[str, Any] = {"model": str(folder), "prompts": prompts, "store": store}
    ways = [
        Loading(),
        Loading(bos=True),
        Loading(template_options={"loud": True}),
        Loading(template_options={"loud": 0}),
    ]
    made = [
        run("perplexity", loading=way, template="chat" if way.template_options else "none", **given) for way in ways
    ]
    assert len({r.key for r in made}) == 4
    tokens = [int(r.table.set_index("mask")["n_tokens"]["full"]) for r in made]
    assert (tokens[1] - tokens[0], tokens[2] > tokens[3]) == (1, True)
