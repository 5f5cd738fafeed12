"""Derivatives along a direction of the weights, and the direction an optimizer took."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# The learning rate that was used: transformers saves the next one


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints of a real Trainer under its default schedule (linear), every rate logged."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    folder = tmp_path_factory.mktemp("scheduled")
    model = AutoModelForCausalLM.from_pretrained(tiny.save(folder / "start"))
    data = [{"input_ids": torch.arange(5, 25) + i, "labels": torch.arange(5, 25) + i} for i in range(6)]
    args = TrainingArguments(
        output_dir=str(folder / "run"), use_cpu=True, max_steps=5, per_device_train_batch_size=1, save_steps=1,
        warmup_steps=2, learning_rate=1e-3, weight_decay=0.1, report_to="none", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    Trainer(model, args, train_dataset=data, processing_class=tiny.tokenizer()).train()
    return folder / "run"


@pytest.mark.parametrize("step", [2, 4, 5])
@pytest.mark.parametrize(
    "told_by", ["optimizer.pt of the checkpoint one step earlier", "training_args.bin", "trainer_state.json"]
)
def test_the_update_is_rebuilt_under_a_schedule(scheduled: Path, tmp_path: Path, step: int, told_by: str) -> None:
    import shutil

    from probe.training.learning_rate import learning_rates_used

    after = scheduled / f"checkpoint-{step}"
    if told_by != "optimizer.pt of the checkpoint one step earlier":
        after = shutil.copytree(after, tmp_path / f"checkpoint-{step}")
    if told_by == "trainer_state.json":
        (after / "training_args.bin").unlink()
    groups = torch.load(after / "optimizer.pt", weights_only=True)["param_groups"]
    rates, where = learning_rates_used(after, groups, step)
    assert where == told_by
    assert rates == pytest.approx([1e-3 * {2: 0.5, 4: 2 / 3, 5: 1 / 3}[step]] * 2)
    base, tuned = (Model.load(scheduled / f"checkpoint-{s}", check=False) for s in (step - 1, step))
    true, rebuilt = difference(tuned, base), optimizer_step(after, tuned)
    for name, part in true.items():
        assert float((rebuilt[name] - part).norm()) < 1e-2 * float(part.norm()) + 1e-7, name


def test_an_unknown_rate_is_refused(scheduled: Path, tmp_path: Path) -> None:
    import json
    import shutil

    alone = shutil.copytree(scheduled / "checkpoint-4", tmp_path / "checkpoint-4")
    (alone / "training_args.bin").unlink()
    (alone / "trainer_state.json").write_text(json.dumps({"max_steps": 5, "log_history": []}))
    model = Model.load(alone, check=False)
    with pytest.raises(InputError, match=r"learning rate of update 4 is unknown.*checkpoint-3"):
        optimizer_step(alone, model)


def _stepped(folder: Path, make: Callable[..., torch.optim.Optimizer], drop: str = "") -> tuple[Path, Model, Model]:
    """Checkpoints 2 and 3 of a run under this optimizer, in the order of transformers' parameters."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(tiny.save(folder / "start"))
    args = TrainingArguments(output_dir=str(folder / "run"), use_cpu=True, weight_decay=0.1, report_to="none")
    groups = Trainer(model, args).create_optimizer().param_groups
    optimizer = make([{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups], lr=1e-3)
    for step in (1, 2, 3):
        optimizer.zero_grad()
        ids = torch.arange(5, 25)[None] + step
        (model(ids, labels=ids).loss * (3 if step == 1 else 1)).backward()  # the first gradients are the largest
        optimizer.step()
        if step >= 2:
            model.save_pretrained(folder / f"checkpoint-{step}")
            tiny.tokenizer().save_pretrained(folder / f"checkpoint-{step}")
            saved = optimizer.state_dict()
            for group in saved["param_groups"]:
                group.pop(drop, None)
            torch.save(saved, folder / f"checkpoint-{step}" / "optimizer.pt")
    before, after = (Model.load(folder / f"checkpoint-{s}", check=False) for s in (2, 3))
    return folder / "checkpoint-3", before, after


@pytest.mark.parametrize(
    "make",
    [
        lambda groups, lr: torch.optim.Adam(groups, lr=lr),  # coupled L2: decay is part of the gradient
        lambda groups, lr: torch.optim.AdamW(groups, lr=lr, amsgrad=True),
        lambda groups, lr: torch.optim.Adam(groups, lr=lr, amsgrad=True),
        lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(0.8, 0.9)),
    ],
)
def test_every_form_of_adam_is_rebuilt(tmp_path: Path, make: Callable[..., torch.optim.Optimizer]) -> None:
    folder, before, after = _stepped(tmp_path, make)
    true, rebuilt = difference(after, before), optimizer_step(folder, after)
    for name, part in true.items():
        assert float((rebuilt[name] - part).norm()) < 1e-2 * float(part.norm()) + 1e-7, name


@pytest.mark.parametrize(
    ("make", "drop", "message"),
    [
        (lambda groups, lr: torch.optim.NAdam(groups, lr=lr), "", r"another optimizer than Adam.*mu_product"),
        (lambda groups, lr: torch.optim.RAdam(groups, lr=lr), "", "another optimizer than Adam"),
        (lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9), "", "expected one number"),
        (lambda groups, lr: torch.optim.Adam(groups, lr=lr), "decoupled_weight_decay", "neither the optimizer's state"),
    ],
)
def test_what_is_not_adam_or_cannot_be_told_is_refused(tmp_path: Path, make: Any, drop: str, message: str) -> None:
    folder, _, after = _stepped(tmp_path, make, drop)
    with pytest.raises(InputError, match=message):
        optimizer_step(folder, after)
