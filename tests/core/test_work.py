"""Every analysis of models says what it takes, within a factor of what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from analyses.core.analysis import checked_options, get, names
from analyses.core.cost.estimates import flops, work_of
from analyses.core.cost.plan import case_of, sizes
from analyses.core.work import Case, Size
from probe import Model, Prompts
from tests import tiny
from tests.core.test_cost import PROMPTS

LITTLE = {"draws": 2, "permutations": 5, "steps": 3, "updates": 3, "seeds": 2, "fit": "regression", "betas": (0.0, 0.5)}
LITTLE |= {"groups": ("leaked", "unseen"), "generate": False, "verify": 2}
COUNTED = (
    "attention_entropy", "attention_length", "difference_lens", "difference_steering",
    "distillation", "entropy_steering", "linear_probe", "memorization", "neural_ode",
    "reversal", "weight_reset",
)  # fmt: skip


class Operations(TorchDispatchMode):
    """Matrix operations, as torch's own counter counts them; gradients taken inside do not disturb it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        counted = flop_registry.get(func._overloadpacket)
        self.total += counted(*args, **(kwargs or {}), out_val=out) if counted is not None else 0
        return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    changes = {"num_hidden_layers": 6, "hidden_size": 64, "intermediate_size": 160, "max_position_embeddings": 128}
    root = tiny.series(tmp_path_factory.mktemp("work"), (0, 10), **changes)
    base, tuned = (Model.load(root / f"checkpoint-{n}", check=False) for n in (0, 10))
    for model in (base, tuned):  # what a first look into attention takes is no analysis's
        model.run(model.batches(PROMPTS.limit(1))[0], read=["pattern.0"], logits="none")
    return {"base": base, "tuned": tuned, "model": tuned}


def test_every_analysis_of_models_declares_its_work() -> None:
    kinds = {name: {i.kind for i in get(name).inputs} for name in names()}
    assert [n for n, k in kinds.items() if k & {"Model", "Checkpoints"} and get(n).work is None] == []


def test_what_is_declared_can_be_computed_for_every_size(pair: dict[str, Model]) -> None:
    size = Size.of(pair["base"].shape)
    for of in (get(name) for name in names() if get(name).work is not None):
        models = sum(i.kind == "Model" for i in of.inputs)
        case = Case(size, models, 20, 8, 28, 10, checked_options(of, {}))
        assert flops(work_of(of, case), case) + work_of(of, case).fixed > 0, of.name


@pytest.mark.parametrize("name", COUNTED)
def test_operations_within_a_factor_of_those_counted(name: str, pair: dict[str, Model]) -> None:
    of = get(name)
    given = {o.name: LITTLE[o.name] for o in of.options if o.name in LITTLE}
    models = {i.name: pair[i.name] for i in of.inputs if i.kind == "Model"}
    with Operations() as counted:
        of(**models, prompts=PROMPTS, **given)
    case = counted_case(pair["base"], len(models), PROMPTS, checked_options(of, given))
    predicted = work_of(of, case).fixed + case.n_items * flops(work_of(of, case), case)
    assert 1 / 1.5 <= predicted / counted.total <= 1.5


def counted_case(model: Model, models: int, prompts: Prompts, options: dict[str, Any]) -> Case:
    assert model.checkpoint is not None
    return case_of(sizes(model.checkpoint)[0], models, model.checkpoint, prompts, options)


def test_the_counter_counts_a_product() -> None:
    with Operations() as counted:
        torch.ones(3, 4) @ torch.ones(4, 5)
    assert counted.total == 2 * 3 * 4 * 5
