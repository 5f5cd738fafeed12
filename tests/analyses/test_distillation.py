"""Distillation: gradients against finite differences, the printed margins, where a planted divergence sits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import get
from analyses.teaching.distillation import extrapolated, margin, measures
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import planted, tiny


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([p], dtype=torch.float64).log()


def test_pulls_are_the_norms_of_the_gradients() -> None:
    """Against autograd, and the printed case: a student without mass sees -t_j forward and nothing in reverse."""
    student = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(1, 6, dtype=torch.float64)
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    forward = (log_t.exp() * (log_t - log_s)).sum()
    reverse = (log_s.exp() * (log_s - log_t)).sum()
    want = [torch.autograd.grad(kl, student, retain_graph=True)[0].abs().sum().item() for kl in (forward, reverse)]
    found = measures(student.detach(), teacher, 0.01, 1e-4)
    assert [found["forward_pull"][0], found["reverse_pull"][0]] == pytest.approx(want, abs=1e-5)
    assert [found["forward_nats"][0], found["reverse_nats"][0]] == pytest.approx(
        [forward.item(), reverse.item()], abs=1e-5
    )

    z = torch.tensor([-24.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.08, 0.5, 0.42], dtype=torch.float64)
    s = z.softmax(-1)
    forward, reverse = (t * (t.log() - s.log())).sum(), (s * (s.log() - t.log())).sum()
    seen = [float(torch.autograd.grad(kl, z, retain_graph=True)[0][0]) for kl in (forward, reverse)]
    assert seen[0] == pytest.approx(-0.08, abs=1e-4) and abs(seen[1]) < 1e-9
    assert measures(z.detach()[None], t.log()[None], 0.01, 1e-4)["unseen_mass"][0] == pytest.approx(0.08)


def test_divergences_are_bounded_and_zero_for_equal_logits() -> None:
    far = measures(logits(1 - 2e-12, 1e-12, 1e-12), logits(1e-12, 1 - 2e-12, 1e-12), 0.01, 1e-4)
    assert far["jsd_nats"][0] == pytest.approx(math.log(2), abs=1e-5) and far["forward_pull"][0] == pytest.approx(2)
    same = measures(logits(0.2, 0.3, 0.5), logits(0.2, 0.3, 0.5), 0.01, 1e-4)
    assert all(same[q][0] == 0 for q in ("forward_nats", "reverse_nats", "jsd_nats", "forward_pull", "reverse_pull"))
    assert np.isnan(same["margin"][0])


def test_the_margin() -> None:
    """lambda 1 is the teacher, 0 the student; p .95, b .6, 1.3 gives logit 3.70613; from b = 1/2 a ratio of logits."""
    assert extrapolated(0.95, 0.6, 1.3) == pytest.approx(3.70613, abs=5e-6)
    assert extrapolated(0.95, 0.6, 1.0) == pytest.approx(math.log(19))
    assert extrapolated(0.95, 0.6, 0.0) == pytest.approx(math.log(1.5))
    at = lambda p, b, delta: float(margin(torch.tensor([p]).double(), torch.tensor([b]).double(), delta)[0])  # noqa: E731
    found = at(0.95, 0.6, 0.01)
    assert extrapolated(0.95, 0.6, found) == pytest.approx(math.log(99))
    assert at(0.9, 0.5, 0.02) == pytest.approx(math.log(49) / math.log(9))
    assert math.isnan(at(0.5, 0.6, 0.01)) and math.isnan(at(1.0, 0.6, 0.01))


def test_a_planted_divergence_sits_at_the_digit(copying: dict[str, Model]) -> None:
    """Student and teacher differ in what digit they say; letters behind it were learnt by neither."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(12):
        words, digit = [str(w) for w in rng.choice(planted.LETTERS, 5)], str(rng.choice(planted.DIGITS))
        items.append(Item(f"q{i}", " ".join([*words[:2], digit, *words[2:], "?"]), f" {digit}"))
    data = get("distillation")(copying["base"], copying["tuned"], Prompts(tuple(items))).data
    data = data.squeeze(["group", "answer_kind"])
    assert data["share"].sel(token_class="number").item() == pytest.approx(1)
    assert data["forward_nats"].item() > 1 and data["jsd_nats"].item() <= math.log(2)
    same = get("distillation")(copying["base"], copying["base"], Prompts(tuple(items)))
    assert same.warnings and same.data["forward_nats"].item() == same.data["reverse_pull"].item() == 0


def test_a_teacher_of_another_depth_is_taken_and_one_of_another_vocabulary_refused(tmp_path: Path) -> None:
    student = Model.load(tiny.save(tmp_path / "student"))
    deeper = Model.load(tiny.save(tmp_path / "deeper", num_hidden_layers=4, seed=1))
    prompts = tiny.twelve_items().limit(2)
    assert get("distillation")(student, deeper, prompts).data["forward_nats"].min().item() > 0
    with pytest.raises(InputError, match="vocabular"):
        get("distillation")(student, Model.load(tiny.save(tmp_path / "other", words=True)), prompts)


def test_options_out_of_range_are_refused(models: dict[str, Any], prompts: Prompts) -> None:
    with pytest.raises(InputError, match="delta=0"):
        get("distillation")(models["base"], models["tuned"], prompts, delta=0.0)
