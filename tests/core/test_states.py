"""Pooled states: the model's own, whatever the batch; strata; what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.core.reading.pooled import pooled_states, strata_of, two_groups
from probe import Item, Model, Prompts
from probe.errors import InputError
from tests import tiny
from tests.planted import states_of
from tests.tiny import twelve_items


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("states") / "m")


@pytest.fixture(scope="module")
def base(folder: Path) -> Model:
    return Model.load(folder, check=False)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return twelve_items()


def test_states_are_the_models_and_do_not_depend_on_padding(base, prompts):
    one = pooled_states(base, prompts, batch_size=1)
    many = pooled_states(base, prompts, batch_size=7, padding="right")
    np.testing.assert_allclose(one.values, many.values, atol=1e-5)
    (batch,) = base.batches(prompts.limit(1), batch_size=1)
    trace = base.run(batch, read=["embed", "resid_post.2"])
    last = int(batch.last_prompt[0])
    np.testing.assert_allclose(one.values[0, 3], trace["resid_post.2"][0, last].numpy(), atol=1e-6)
    mean = pooled_states(base, prompts.limit(1), pooling="mean_prompt")
    np.testing.assert_allclose(mean.values[0, 3], trace["resid_post.2"][0, : last + 1].mean(0).numpy(), atol=1e-5)


def test_a_state_that_is_not_finite_is_named(folder, prompts):
    broken = Model.load(folder, check=False)
    with torch.no_grad():
        broken.weights()["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    with pytest.raises(InputError, match=r"m: resid_post\.1 is not finite .* at position 0 of item 'q"):
        pooled_states(broken, prompts)


def test_several_answers_of_a_prompt_have_one_state(base):
    both = Prompts(tuple(Item("a", "what is 3", a, answer_kind=a) for a in ("1", "7 and 2")))
    found = pooled_states(base, both)
    assert len(found.items) == 1 and np.array_equal(found.values, pooled_states(base, both.limit(1)).values)
    with pytest.raises(InputError, match="several answer_kinds"):
        pooled_states(base, both, pooling="mean")
    other = Prompts(tuple(Item("a", p, "1", answer_kind=p) for p in ("what is 3", "what is 7")))
    with pytest.raises(InputError, match="several answer_kinds"):
        pooled_states(base, other)


def test_strata_join_columns_and_thirds_of_the_length():
    states = states_of(np.zeros((9, 2, 1)), np.arange(9) < 4, n_tokens=np.arange(9))
    assert strata_of(states, ()) is None
    found = strata_of(states, ("length",))
    assert sorted(np.unique(found, return_counts=True)[1].tolist()) == [3, 3, 3]
    with pytest.raises(InputError, match="'dataset': not a column"):
        strata_of(states, ("dataset",))


def test_two_groups_must_be_named_and_large_enough(prompts):
    assert two_groups(prompts, ()) == ("leaked", "unseen")
    assert two_groups(prompts, ("unseen", "leaked")) == ("unseen", "leaked")
    with pytest.raises(InputError, match="at least 7 in each"):
        two_groups(prompts, (), needed=7)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_states_of_the_answer_are_those_that_predict_its_tokens(base, padding):
    items = [Item("a", "what is 3 plus 7 ?", "ans 10"), Item("b", "what is 3", "think 12 + 5 = 17 ; ans 14")]
    prompts = Prompts(tuple(items))
    plan = {"batch_size": 2, "padding": padding}
    found = {p: pooled_states(base, prompts, pooling=p, **plan) for p in ("answer_first", "answer", "answer_last")}
    for row, item in enumerate(items):
        (batch,) = base.batches(Prompts((item,)), batch_size=1)
        h = base.run(batch, read=["resid_post.1"])["resid_post.1"][0].numpy()
        at = np.flatnonzero(batch.span[0].numpy() == 4) - 1
        want = {"answer_first": h[at[0]], "answer": h[at].mean(0), "answer_last": h[at[-1]]}
        for pooling, values in want.items():
            np.testing.assert_allclose(found[pooling].values[row, 2], values, atol=1e-5)
        for positions, where in (
            ((0,), [0]),
            ((-1,), [batch.last_prompt[0]]),
            ((1, -2), [1, batch.last_prompt[0] - 1]),
        ):
            chosen = pooled_states(base, prompts, positions=positions, **plan).values[row, 2]
            np.testing.assert_allclose(chosen, h[where].mean(0), atol=1e-5)


def test_spans_and_positions_that_are_not_there_are_refused(base, prompts):
    with pytest.raises(InputError, match="no such tokens"):
        pooled_states(base, prompts, pooling="rationale")
    with pytest.raises(InputError, match=r"has no position 60"):
        pooled_states(base, prompts, positions=(60,))
    both = Prompts(tuple(Item("a", "what is 3", a, answer_kind=a) for a in ("1", "7 and 2")))
    with pytest.raises(InputError, match="several answer_kinds"):
        pooled_states(base, both, pooling="answer_last")
