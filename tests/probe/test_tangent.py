"""Derivatives along a direction of the weights, and the direction an optimizer took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from analyses.core.reading.tangent import along, difference, optimizer_step
from probe import InputError, Model, Prompts
from tests import tiny


def entropies(logits: torch.Tensor) -> torch.Tensor:
    logp = logits.double().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1).flatten()


def moved(model: Model, direction: dict[str, torch.Tensor], size: float) -> None:
    done: set[int] = set()
    with torch.no_grad():
        for name, weight in model.weights().items():
            if id(weight) not in done:
                weight.add_(direction[name], alpha=size)
                done.add(id(weight))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_equals_a_central_difference(tmp_path: Path, family: str, prompts: Prompts) -> None:
    model = Model.load(tiny.save(tmp_path / "a", family), check=False)
    batch = model.batches(prompts)[0]
    rng = torch.Generator().manual_seed(3)
    direction = {n: torch.randn(w.shape, generator=rng) * 0.02 for n, w in model.weights().items()}
    tied = {id(w): n for n, w in model.weights().items()}
    direction = {n: direction[tied[id(w)]] for n, w in model.weights().items()}
    _, found = along(model, batch, direction, entropies)
    ends = []
    for size in (0.02, -0.04):
        moved(model, direction, size)
        ends.append(entropies(model.run(batch).logits))
    want = (ends[0] - ends[1]) / 0.04
    real = batch.mask.flatten()
    torch.testing.assert_close(found[real], want[real], atol=2e-3 * float(want[real].abs().max()), rtol=0)


def test_linear_in_the_direction_and_zero_for_none(tmp_path: Path, prompts: Prompts) -> None:
    model = Model.load(tiny.save(tmp_path / "a"), check=False)
    other = Model.load(tiny.save(tmp_path / "b", seed=3), check=False)
    batch, delta = model.batches(prompts)[0], difference(other, model)
    once, twice = (along(model, batch, {n: k * d for n, d in delta.items()}, entropies)[1] for k in (1.0, 2.0))
    torch.testing.assert_close(twice, 2 * once, rtol=1e-4, atol=1e-6)
    none = along(model, batch, {n: 0 * d for n, d in delta.items()}, entropies)[1]
    assert float(none.abs().max()) == 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimizers_last_step_is_rebuilt(tmp_path: Path, decay: float) -> None:
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = tiny.save(tmp_path / "start")
    model = AutoModelForCausalLM.from_pretrained(folder)
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, weight_decay=decay, report_to="none")
    optimizer = Trainer(model, args).create_optimizer()
    for step in (1, 2, 3):
        optimizer.zero_grad()
        ids = torch.arange(5, 25)[None] + step
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        if step >= 2:
            model.save_pretrained(tmp_path / f"checkpoint-{step}")
            tiny.tokenizer().save_pretrained(tmp_path / f"checkpoint-{step}")
            torch.save(optimizer.state_dict(), tmp_path / f"checkpoint-{step}" / "optimizer.pt")
    before, after = (Model.load(tmp_path / f"checkpoint-{s}", check=False) for s in (2, 3))
    true, rebuilt = difference(after, before), optimizer_step(tmp_path / "checkpoint-3", after)
    for name, step in true.items():
        assert float((rebuilt[name] - step).norm()) < 2e-2 * float(step.norm()) + 1e-7, name
    with pytest.raises(InputError, match=r"no optimizer.pt"):
        optimizer_step(folder, after)
