"""Gradients of the losses on the true token's logit against the closed forms, and reductions."""

from __future__ import annotations

import pytest
import torch

from probe.errors import InputError
from probe.training.losses import NAMES, shifted_loss, token_loss, trainer_with

TABLE = {  # p: gradient of ce, mar_detached, mar_attached, dft on the true-token logit
    0.1: (-0.9, -0.81, -1.01723, -0.09),
    0.5: (-0.5, -0.25, -0.42329, -0.25),
    0.9: (-0.1, -0.01, -0.01948, -0.09),
    0.99: (-0.01, -0.0001, -0.00020, -0.0099),
}


@pytest.mark.parametrize("p", TABLE)
def test_gradient_table(p: float):
    for name, expected in zip(("ce", "mar_detached", "mar_attached", "dft"), TABLE[p], strict=True):
        logits = torch.log(torch.tensor([[p, (1 - p) / 3, (1 - p) / 3, (1 - p) / 3]], dtype=torch.float64))
        logits.requires_grad_()
        token_loss(logits, torch.tensor([0]), name, "sum").backward()
        assert logits.grad is not None
        assert float(logits.grad[0, 0]) == pytest.approx(expected, abs=6e-6)


def test_values_and_closed_forms_of_the_gradient():
    p = torch.tensor(0.3, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()])[None]
    nll = float(-p.log())
    values = {name: float(token_loss(logits, torch.tensor([0]), name, "sum")) for name in NAMES}
    assert values == pytest.approx({"ce": nll, "mar_detached": 0.7 * nll, "mar_attached": 0.7 * nll, "dft": 0.3 * nll})


def test_ignored_tokens_contribute_nothing():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, generator=rng)
    labels = torch.tensor([[1, 2, -100, 0], [-100, -100, -100, -100]])
    each = token_loss(logits, labels, "mar_detached", "none")
    assert (each[labels == -100] == 0).all()
    assert token_loss(logits, labels, "mar_detached") == pytest.approx(float(each.sum()) / 3)
    assert float(token_loss(logits[1], labels[1], "dft")) == 0.0  # no token: 0, not NaN


def test_cross_entropy_is_torchs():
    rng = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(6, 9, generator=rng), torch.tensor([0, 3, -100, 8, 2, -100])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(token_loss(logits, labels, "ce"), expected)


def test_the_shifted_loss_divides_by_the_accumulated_count():
    rng = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(1, 5, 7, generator=rng), torch.tensor([[-100, 1, 2, 3, 4]])
    loss = shifted_loss(logits, labels, "ce")
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:]))
    half = shifted_loss(logits, labels, "ce", 8)
    torch.testing.assert_close(half, loss / 2)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="expected one of"):
        token_loss(torch.zeros(1, 2), torch.tensor([0]), "focal")  # type: ignore[arg-type]


def test_a_trl_trainer_takes_them(tmp_path):
    """Three updates of a tiny model under each loss: finite, and not the same as plain cross-entropy."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from tests import tiny

    rows = Dataset.from_list([{"prompt": f"what is {i} plus 7 ?", "completion": f" ans {i}"} for i in range(8)])
    ended = {}
    for name in ("ce", "mar_detached", "dft"):
        args = SFTConfig(
            output_dir=str(tmp_path / name), max_steps=3, per_device_train_batch_size=4, use_cpu=True, bf16=False,
            gradient_checkpointing=False, report_to="none", save_strategy="no", learning_rate=1e-2, seed=0,
            disable_tqdm=True, logging_steps=1, loss_type="nll",
        )  # fmt: skip
        model, toks = tiny.model("llama", vocab_size=320), tiny.tokenizer()
        made = trainer_with(SFTTrainer, name)
        trainer = made(model, args=args, train_dataset=rows, processing_class=toks)
        trainer.train()
        ended[name] = [h["loss"] for h in trainer.state.log_history if "loss" in h]
    assert all(len(v) == 3 and all(x == x and x >= 0 for x in v) for v in ended.values())
    assert ended["ce"][0] > ended["mar_detached"][0] > 0
    assert ended["ce"][0] > ended["dft"][0] > 0
