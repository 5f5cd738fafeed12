"""Entropies and divergences against closed forms, SciPy and float64; streaming against materialising."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from analyses.core.reading import readouts as measures
from probe.errors import InputError

LN2 = 0.6931471805599453


def logs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    a = 3 * torch.randn(6, 5000, generator=generator)
    return a, a + 0.5 * torch.randn(6, 5000, generator=generator)


# ---- divergences


def test_jsd_closed_form():
    """(1/2, 1/2) against (1, 0): 0.215762 nats; disjoint distributions: ln 2, the maximum."""
    assert measures.jsd_nats(logs([0.5, 0.5]), logs([1.0, 0.0])).item() == pytest.approx(0.215762, abs=1e-6)
    assert measures.jsd_nats(logs([0.0, 1.0]), logs([1.0, 0.0])).item() == pytest.approx(LN2, abs=1e-9)
    far = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
    apart = measures.jsd_nats(measures.log_softmax(far[:1]), measures.log_softmax(far[1:]))
    assert apart.item() == pytest.approx(LN2, abs=1e-6) and apart.item() <= LN2 + 1e-7


def test_divergences_agree_with_scipy(pair):
    log_p, log_q = (torch.log_softmax(x.double(), -1) for x in pair)
    p, q = log_p.exp().numpy(), log_q.exp().numpy()
    out = measures.divergences(log_p, log_q)
    np.testing.assert_allclose(out.jsd_nats, jensenshannon(p, q, axis=-1) ** 2, rtol=1e-9)
    np.testing.assert_allclose(out.kl_pq_nats, rel_entr(p, q).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(out.kl_qp_nats, rel_entr(q, p).sum(-1), rtol=1e-9)
    np.testing.assert_allclose(out.total_variation, np.abs(p - q).sum(-1) / 2, rtol=1e-9)
    for name, single in (("jsd_nats", measures.jsd_nats), ("kl_pq_nats", measures.kl_nats)):
        np.testing.assert_allclose(single(log_p, log_q), getattr(out, name), rtol=1e-9)


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4])
def test_float32_keeps_the_digits_of_small_divergences(pair, size):
    """Errors stay below 4e-7, and below 2 % of the value down to divergences of 1e-10."""
    p = measures.log_softmax(pair[0])
    q = measures.log_softmax(pair[0] + size * (pair[1] - pair[0]))
    ours, exact = measures.divergences(p, q), measures.divergences(p.double(), q.double())
    for name in ("jsd_nats", "kl_pq_nats", "kl_qp_nats", "total_variation"):
        error = (getattr(ours, name) - getattr(exact, name)).abs()
        assert error.max() < 4e-7
        assert (error <= 0.02 * getattr(exact, name)).all(), name


def test_equal_inputs_give_exactly_zero(pair):
    log_p = measures.log_softmax(pair[0])
    out = measures.divergences(log_p, log_p.clone())
    for name in ("jsd_nats", "kl_pq_nats", "kl_qp_nats", "total_variation"):
        assert (getattr(out, name) == 0).all(), name
    assert (measures.kl_nats(log_p, log_p) == 0).all() and (measures.jsd_nats(log_p, log_p) == 0).all()


def test_jsd_is_symmetric_and_bounded_by_total_variation(pair):
    log_p, log_q = (measures.log_softmax(x) for x in pair)
    there, back = measures.divergences(log_p, log_q), measures.divergences(log_q, log_p)
    torch.testing.assert_close(there.jsd_nats, back.jsd_nats, rtol=0, atol=1e-7)
    torch.testing.assert_close(there.kl_pq_nats, back.kl_qp_nats, rtol=0, atol=1e-6)
    tv, jsd = there.total_variation, there.jsd_nats
    assert (tv**2 / 2 <= jsd).all() and (jsd <= LN2 * tv).all()


def test_kl_is_infinite_only_where_q_is_zero_and_p_is_not():
    p, q = logs([0.5, 0.5, 0.0]), logs([1.0, 0.0, 0.0])
    out = measures.divergences(p, q)
    assert torch.isinf(out.kl_pq_nats).all() and out.kl_qp_nats.item() == pytest.approx(LN2)
    assert torch.isinf(measures.kl_nats(p, q)).all() and measures.kl_nats(q, p).item() == pytest.approx(LN2)


def test_blocks_of_rows_change_nothing(pair, monkeypatch):
    log_p, log_q = (measures.log_softmax(x) for x in pair)
    whole = measures.divergences(log_p, log_q)
    monkeypatch.setattr(measures, "ELEMENTS_AT_ONCE", 1)
    torch.testing.assert_close(measures.divergences(log_p, log_q).jsd_nats, whole.jsd_nats, rtol=0, atol=1e-7)
    assert measures.divergences(log_p[:0], log_q[:0]).jsd_nats.shape == (0,)


# ---- entropy and nll


def test_entropy_closed_forms(pair):
    uniform = measures.entropy_nats(measures.log_softmax(torch.zeros(2, 1000)))
    assert uniform == pytest.approx([np.log(1000)] * 2, abs=1e-5)
    assert measures.entropy_nats(logs([1.0, 0.0])).item() == 0.0
    exact = torch.distributions.Categorical(logits=pair[0].double()).entropy()
    assert (measures.entropy_nats(measures.log_softmax(pair[0])) - exact).abs().max() < 1e-5


# ---- streamed


@pytest.fixture
def head():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(16, 3000, generator=generator)
    return lambda rows: rows @ weight, torch.randn(70, 16, generator=generator)


def test_streamed_equals_materialised(head):
    unembed, rows = head
    targets = torch.arange(70) % 3000
    out = measures.streamed(rows, unembed, targets, k=4, rows_at_once=32)
    log_p = torch.log_softmax(unembed(rows).double(), -1)
    own = log_p.gather(-1, targets[:, None])
    assert (out.logprob_nats - own[:, 0]).abs().max() < 1e-5
    assert torch.equal(out.rank, (log_p > own).sum(-1))
    assert (out.entropy_nats + (log_p.exp() * log_p).sum(-1)).abs().max() < 1e-5
    assert torch.equal(out.top_ids, log_p.topk(4).indices)
    assert (out.top_logprob_nats - log_p.topk(4).values).abs().max() < 1e-5
    assert (out.padded_mass == 0).all()


def test_streamed_never_holds_more_rows_than_asked(head):
    unembed, rows = head
    seen = []
    measures.streamed(rows, lambda x: (seen.append(len(x)), unembed(x))[1], torch.zeros(70, dtype=int), rows_at_once=32)
    assert seen == [32, 32, 6]


def test_streamed_takes_several_targets_and_no_rows(head):
    unembed, rows = head
    many = measures.streamed(rows, unembed, torch.arange(140).reshape(70, 2), k=0)
    one = measures.streamed(rows, unembed, torch.arange(140).reshape(70, 2)[:, 1], k=0)
    assert many.rank.shape == (70, 2) and torch.equal(many.rank[:, 1], one.rank)
    assert torch.equal(many.logprob_nats[:, 1], one.logprob_nats) and many.top_ids.shape == (70, 0)
    none = measures.streamed(rows[:0], unembed, torch.zeros(0, dtype=int), k=3)
    assert none.logprob_nats.shape == (0,) and none.top_ids.shape == (0, 3)


def test_streamed_leaves_the_rows_alone(head):
    """An unembedding that returns its argument must not have its input overwritten."""
    _, rows = head
    before = rows.clone()
    measures.streamed(rows, lambda x: x, torch.zeros(70, dtype=int), k=2)
    assert torch.equal(rows, before)


def test_streamed_reports_mass_on_padded_ids(head):
    unembed, rows = head
    out = measures.streamed(rows, unembed, torch.zeros(70, dtype=int), n_tokens=2900)
    expected = torch.softmax(unembed(rows), -1)[:, 2900:].sum(-1)
    torch.testing.assert_close(out.padded_mass, expected, rtol=1e-4, atol=1e-7)


def test_masked_logits_have_no_probability():
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    out = measures.streamed(logits, lambda x: x, torch.tensor([2]), k=1)
    assert torch.isneginf(out.logprob_nats).all() and out.entropy_nats.item() == pytest.approx(LN2)


def test_streamed_refuses_bad_input(head):
    unembed, rows = head
    with pytest.raises(InputError, match="70 rows but 3 targets"):
        measures.streamed(rows, unembed, torch.zeros(3, dtype=int))
    broken = rows.clone()
    broken[40] = torch.nan
    with pytest.raises(InputError, match=r"not finite .* of item 'row 40'"):
        measures.streamed(broken, unembed, torch.zeros(70, dtype=int), rows_at_once=16)


def test_a_kl_of_nanonats_is_read_to_a_thousandth_in_float32_over_a_real_vocabulary():
    torch.manual_seed(0)
    first = 3 * torch.randn(2, 152_000)
    for size, tolerance in ((1e-3, 1e-4), (1e-4, 1e-3)):  # 4e-7 and 5e-9 nats
        second = first + size * torch.randn(2, 152_000)
        log_p, log_q = first.double().log_softmax(-1), second.double().log_softmax(-1)
        found = measures.divergences(first, second)
        exact = (log_p.exp() * (log_p - log_q)).sum(-1), (log_q.exp() * (log_q - log_p)).sum(-1)
        for kl, true in zip((found.kl_pq_nats, found.kl_qp_nats), exact, strict=True):
            torch.testing.assert_close(kl.double(), true, rtol=tolerance, atol=0)
