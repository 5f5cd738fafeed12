"""Distillation: gradients against finite differences, the printed margins, where a planted divergence sits."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import get
from analyses.core.claim import FOUND, NONE, UNJUDGED
from analyses.teaching.distillation import _claim, margin, measures
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import planted, tiny
from tests.conftest import ROOT


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


def extrapolated(p: float, b: float, strength: float) -> float:
    """logit of a token whose logit is extrapolated from b through p (strength 1: p, 0: b)."""
    return float(strength * math.log(p / (1 - p)) + (1 - strength) * math.log(b / (1 - b)))


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
    assert [c.answer for c in same.claims] == [UNJUDGED], "nothing differs, so nothing has a place"
    assert same.warnings and same.data["forward_nats"].item() == same.data["reverse_pull"].item() == 0


def test_a_teacher_of_another_depth_is_taken_and_one_of_another_vocabulary_refused(tmp_path: Path) -> None:
    student = Model.load(tiny.save(tmp_path / "student"))
    deeper = Model.load(tiny.save(tmp_path / "deeper", num_hidden_layers=4, seed=1))
    prompts = tiny.twelve_items().limit(2)
    assert get("distillation")(student, deeper, prompts).data["forward_nats"].min().item() > 0
    with pytest.raises(InputError, match="vocabular"):
        get("distillation")(student, Model.load(tiny.save(tmp_path / "other", words=True)), prompts)


def test_options_out_of_range_are_refused(models: dict[str, Any], prompts: Prompts) -> None:
    with pytest.raises(InputError, match="left_over=0"):
        get("distillation")(models["base"], models["tuned"], prompts, left_over=0.0)


def spread(n: int, seed: int, extra: float) -> pd.DataFrame:
    """Divergence of `n` items over two classes, each token's drawn alike, numbers `extra` times as large."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        for name, size in (("number", rng.integers(1, 4)), ("word", rng.integers(2, 9))):
            sums = float(rng.exponential(extra if name == "number" else 1.0, size).sum())
            rows.append({"item": i, "token_class": name, "n_tokens": size, "forward_nats_sum": sums})
    found = pd.DataFrame(rows)
    return found.assign(total=found.groupby("item")["forward_nats_sum"].transform("sum"))


def test_a_class_that_holds_more_than_its_tokens_is_found() -> None:
    claim = _claim(spread(40, 0, 6.0), ("g", "given"), 0)
    assert claim.answer == FOUND and claim.place == "number"
    said = [_claim(spread(32, s, 1.0), ("g", "given"), 0).answer for s in range(8)]
    assert said.count(FOUND) <= 1 and NONE in said
    assert _claim(spread(4, 0, 6.0), ("g", "given"), 0).answer == UNJUDGED


@pytest.mark.verify
def test_a_divergence_that_is_spread_evenly_over_100_seeds() -> None:
    assert [_claim(spread(32, s, 1.0), ("g", "given"), 0).answer for s in range(100)].count(FOUND) <= 10


MEASURED = """
import resource, torch, types
from analyses.teaching.distillation import measured
torch.set_num_threads(1)
head = torch.randn(8, 152_064)
class Wide:
    shape = types.SimpleNamespace(d_vocab=152_064)
    def logits_of(self, rows):
        return rows @ head
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = torch.randn(3000, 8)
measured(Wide(), Wide(), rows[:8], rows[:8], 0.01, 1e-4)
before = peak()
measured(Wide(), Wide(), rows, rows.flip(0), 0.01, 1e-4)
print(peak() - before)
"""


@pytest.mark.verify
def test_a_tenth_of_the_memory_of_holding_the_distributions_is_enough() -> None:
    """3,000 answer tokens of 152,064: student's and teacher's log-probabilities, all at once, take 3,480 MiB."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=ROOT)
    print(f"{float(done.stdout):.0f} MiB")
    assert float(done.stdout) < 0.1 * 2 * 3000 * 152_064 * 4 / 2**20
