"""The cost model against counted operations and written bytes, and closed forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from analyses.core.analysis import checked_options, get, names
from analyses.core.cost.estimates import cost, flops, work_of
from analyses.core.cost.fleet import Fleet, large, rows, schedule
from analyses.core.cost.plan import SLACK, Plan, Rates, plan, sizes
from analyses.core.work import Case, Size, Work
from apps.command.cli import app
from probe import Checkpoint, InputError, Item, Model, Prompts
from probe.shape import ModelShape
from tests import tiny

RATES = Rates(1e9, 1e9, 1e9)
PROMPTS = Prompts(
    tuple(
        Item(
            f"q{i:03d}",
            f"what is {i} plus {3 * i} ?" if i % 3 else f"Ann has {i} figs . buys 5 . how many ?",
            f"ans {4 * i}" if i % 2 else f"think {i} ; ans {4 * i}",
            group="leaked" if i % 2 else "unseen",
        )
        for i in range(24)
    )
)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    return tiny.series(folder, (0, 10), num_hidden_layers=6, hidden_size=64, intermediate_size=160)


@pytest.fixture(scope="module")
def pair(series: Path) -> dict[str, Model]:
    base, tuned = (Model.load(series / f"checkpoint-{n}", check=False) for n in (0, 10))
    return {"base": base, "tuned": tuned, "model": tuned}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("perplexity", {}),
    ("perplexity", {"score": "answer"}),
    ("logit_lens", {}),
    ("logit_lens", {"top_k": 0}),
    ("divergence", {}),
    ("divergence", {"variant": "lens_to_final"}),
    ("divergence", {"variant": "in_out"}),
    ("similarity", {"draws": 5}),
    ("trajectories", {"draws": 5, "permutations": 5}),
    ("cross_patching", {"draws": 5}),
    ("cross_patching", {"draws": 5, "positions": "last_prompt"}),
    ("cross_patching", {"draws": 5, "sites": ("resid_post",), "direction": "both"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_predicted_against_counted(
    series: Path, pair: dict[str, Model], tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    """Operations within 10 %, bytes of the table within 30 % and rows within 20 % of what a run took."""
    of = get(name)
    predicted = plan(name, checkpoints=series, prompts=PROMPTS, rates=RATES, **options).cost
    with FlopCounterMode(display=False) as counter:
        result = of(**{i.name: pair[i.name] for i in of.inputs if i.kind == "Model"}, prompts=PROMPTS, **options)
    assert predicted.flops == pytest.approx(counter.get_total_flops(), rel=0.1)
    result.table.to_parquet(tmp_path / "table.parquet", index=False)
    assert predicted.store_bytes == pytest.approx((tmp_path / "table.parquet").stat().st_size, rel=0.3)
    assert predicted.rows == pytest.approx(len(result.table), rel=0.2)


def test_sizes_are_read_without_weights(series: Path, pair: dict[str, Model]) -> None:
    """Headers and configuration give the parameters the model has, and the shape's formula the same blocks."""
    size, stored = sizes(Checkpoint.of(series / "checkpoint-0"))
    assert size.weights == sum(p.numel() for p in pair["base"].weights().values())
    assert size.shape == pair["base"].shape
    assert size.block == Size.of(size.shape).block
    assert stored > 4 * size.weights
    assert size.qkv + size.out + size.mlp == size.block


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2", "gemma2"])
def test_sizes_of_other_families(tmp_path: Path, family: str) -> None:
    folder = tiny.save(tmp_path / family, family)
    size, _ = sizes(Checkpoint.of(folder))
    model = Model.load(folder, check=False)
    assert size.shape == model.shape
    own = {id(p): p.numel() for p in model.weights().values()}
    assert size.weights == sum(own.values())


def _case(**changes: Any) -> Case:
    shape = ModelShape(4, 8, 4, 64, 8, 128, 1000, 512, "llama")
    case = Case(Size.of(shape), 1, prompt=10, answer=6, padded=16, n_items=3, options={"batch_size": 2})
    return replace(case, **changes)


def test_operations_in_closed_form() -> None:
    """One pass and one row unembedded: 2 x weights x rows + 4 x width of heads x keys, and 2 d V."""
    case = _case()
    block = 2 * 64 * 8 * (8 + 4) + 3 * 64 * 128
    want = 4 * 16 * (2 * block + 4 * 64 * 16) + 2 * 64 * 1000
    assert flops(Work(block_rows=case.full_pass, unembedded=1), case) == want


def test_linear_in_items_and_generation_reads_the_weights_for_every_token() -> None:
    of = get("evaluate")
    options = checked_options(of, {"batch_size": 4})
    one, many = (cost(of, _case(n_items=n, options=options)) for n in (10, 160))
    assert many.flops == pytest.approx(16 * one.flops)
    assert many.streamed_bytes == pytest.approx(16 * one.streamed_bytes)
    tokens = options["max_new_tokens"] * options.get("n_samples", 1)
    assert one.streamed_bytes == pytest.approx(10 / 4 * tokens * one.weight_bytes)


def test_every_analysis_has_a_cost() -> None:
    """Declared or read off the signature, none negative; one that takes no model computes nothing."""
    for name in names():
        of = get(name)
        models = sum(i.kind == "Model" for i in of.inputs)
        case = _case(models=models, options=checked_options(of, {}))
        found = cost(of, case)
        assert found.flops >= 0 and found.work_bytes >= 0
        assert (found.flops > 0) == bool({i.kind for i in of.inputs} & {"Model", "Checkpoints"})
        assert not (of.takes_turns and models != 2)
        assert work_of(of, case) == (of.work(case) if of.work else work_of(of, case))


def _plan(memory: float, name: str = "divergence") -> Plan:
    of = get(name)
    case = _case(models=2, options=checked_options(of, {}))
    return Plan(name, cost(of, case), 1, 3, 16.0, RATES, memory)


def test_the_choice_is_what_fits() -> None:
    both, one = _plan(1e12).peak("both"), _plan(1e12).peak("one")
    assert both - one == pytest.approx(SLACK * _plan(1e12).cost.weight_bytes)
    assert [_plan(m).choice for m in (both, both - 1, one, one - 1)] == ["both", "one", "one", "neither"]
    assert _plan(both - 1, "cross_patching").choice == "neither"  # it needs both: never told otherwise


def test_command(series: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("\n".join(json.dumps({"id": i.id, "prompt": i.prompt, "answer": i.answer}) for i in PROMPTS.items))
    given = ["--checkpoints", str(series), "--prompts", str(file)]
    out = CliRunner().invoke(app, ["plan", "divergence", *given, "--variant", "in_out"], catch_exceptions=False)
    assert out.exit_code == 0 and "--hold both" in out.output and "rows" in out.output
    small = ["--device-memory", "0.0009", "--json"]
    out = CliRunner().invoke(app, ["plan", "divergence", *given, *small], catch_exceptions=False)
    facts = json.loads(out.output)
    assert facts["choice"] in ("one", "neither") and facts["spill_bytes"] > 0 and facts["seconds"]["read"] > 0


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("entropy", {}, "Rollouts"),
        ("labels", {}, "a plan is made for"),
        ("perplexity", {}, "--prompts"),
        ("perplexity", {"prompts": PROMPTS, "score": "some"}, "score"),
        ("perplexity", {"prompts": PROMPTS, "dtype": "int8"}, "int8"),
    ],
)
def test_what_has_no_plan(series: Path, name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(name, checkpoints=series, rates=RATES, **given)


def test_a_fleet_bends_where_groups_outnumber_checkpoints() -> None:
    """Compute falls with the number of groups; what is read does not fall, and rises once a checkpoint has several."""
    of = get("divergence")
    found = {n: schedule(of, Fleet(gpus=n)) for n in (8, 64, 512)}
    assert found[64].compute_hours < found[8].compute_hours
    assert found[512].read_bytes > found[64].read_bytes
    group = Fleet(gpus=8).group_size(cost(of, large(of), "bfloat16"))
    assert found[8].groups == 8 // group
    single = cost(of, large(of), "bfloat16").flops
    assert found[8].compute_hours == pytest.approx(100 * single / (found[8].groups * Fleet(8).flops) / 3600)
    assert len(rows(of)) == len({8, 16, 32, 64, 128, 256, 512})


def test_a_run_holds_one_checkpoint_where_both_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bigger weights than activations, so that a second checkpoint is what does not fit."""
    series = tiny.series(tmp_path / "series", steps=(0, 10))
    (tmp_path / "items.jsonl").write_text('{"id": "a", "prompt": "What is 1 + 1?", "answer": " 2"}')
    pair = ["--base", str(series / "checkpoint-0"), "--tuned", str(series / "checkpoint-10")]
    words = ["run", "divergence", *pair, "--prompts", str(tmp_path / "items.jsonl"), "--json", "--results"]
    both = plan("divergence", checkpoints=series, prompts=tmp_path / "items.jsonl", rates=Rates(1.0, 1.0, 1.0))
    told = {}
    for name, memory in {"ample": 1e12, "short": (both.peak("both") + both.peak("one")) / 2}.items():
        monkeypatch.setattr("analyses.core.cost.plan._free", lambda _, memory=memory: memory)
        done = CliRunner().invoke(app, [*words, str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        told[name] = (done.stderr, json.loads(done.stdout))
    assert "one checkpoint at a time" not in told["ample"][0]
    assert "one checkpoint at a time (--hold one): both need" in told["short"][0]
    assert told["ample"][1]["summary"] == told["short"][1]["summary"]
