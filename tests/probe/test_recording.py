"""What the recorder writes is what happened: recomputed from saved checkpoints, and nothing else changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("trl", reason="recording needs TRL")

from tests.experiments.conftest import full_recipe, tiny_lab, tiny_recipe  # noqa: F401


@pytest.fixture(scope="module")
def run(tiny_lab: Path) -> Path:  # noqa: F811
    return tiny_lab / "grpo-format"


@pytest.fixture(scope="module")
def rollouts(run: Path) -> pd.DataFrame:
    return pq.read_table(run / "rollouts").to_pandas()


def test_one_file_per_rollout_step_and_no_scraps(run: Path, rollouts: pd.DataFrame):
    assert [p.name for p in sorted((run / "rollouts").iterdir())] == [f"step-{i:06d}.parquet" for i in (1, 2, 3)]
    assert rollouts.groupby("step").size().to_dict() == {0: 16, 4: 16, 8: 16}
    assert set(rollouts.policy_version) == {"checkpoint-0", "checkpoint-4", "checkpoint-8"}
    assert set(rollouts.run_id) == {"grpo-format"}


def distribution(folder: Path, row: pd.Series) -> torch.Tensor:
    """Log-probs [token, vocab] at the response positions, from the checkpoint alone and one row at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt, response = list(row.prompt_token_ids), list(row.response_token_ids)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("step", [0, 4])
def test_recorded_values_equal_a_recomputation(run: Path, rollouts: pd.DataFrame, step: int):
    folder = run / "checkpoint-0" if step == 0 else run / "window" / f"checkpoint-{step}"
    for _, row in rollouts[rollouts.step == step].iterrows():
        logp = distribution(folder, row)
        p, ids = logp.exp(), torch.tensor(list(row.response_token_ids)).long()
        entropy = -(p * logp).sum(-1)
        expected = {
            "old_logp": logp[torch.arange(len(ids)), ids], "H": entropy, "sum_p2": (p**2).sum(-1),
            "sum_p2_logp": (p**2 * logp).sum(-1), "max_logp": logp.amax(-1),
            "B": entropy * (p**2).sum(-1) + (p**2 * logp).sum(-1),
        }  # fmt: skip
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value.numpy(), atol=1e-4, err_msg=name)


def test_new_logp_is_the_policy_before_its_last_update(run: Path, rollouts: pd.DataFrame):
    row = rollouts[rollouts.step == 0].iloc[0]
    assert len(row.new_logp_updates) == row.n_updates == 2
    np.testing.assert_array_equal(row.new_logp, row.new_logp_updates[-1])
    last = int(row.update_steps[-1])
    folder = run / "window" / f"checkpoint-{last}"
    ids = torch.tensor(list(row.response_token_ids)).long()
    expected = distribution(folder, row)[torch.arange(len(ids)), ids]
    np.testing.assert_allclose(row.new_logp, expected.numpy(), atol=1e-4)


def test_advantages_are_centred_per_group_and_rewards_explain_them(rollouts: pd.DataFrame):
    for _, group in rollouts.groupby("group_uid"):
        assert len(group) == 4
        assert len(set(group.prompt_id)) == 1
        assert abs(group.advantage.sum()) < 1e-5
        expected = (group.reward - group.reward.mean()) / (group.reward.std() + group.adv_eps.iloc[0])
        np.testing.assert_allclose(group.advantage, expected, atol=1e-5)
    assert [dict(parts) for parts in rollouts.reward_parts] == [{"format": reward} for reward in rollouts.reward]


def test_lists_share_the_response_length_and_masks_are_true(rollouts: pd.DataFrame):
    for _, row in rollouts.iterrows():
        for name in ("response_mask", "old_logp", "new_logp", "H", "sum_p2", "sum_p2_logp", "B", "max_logp"):
            assert len(row[name]) == len(row.response_token_ids)
        assert all(row.response_mask)
        assert row.finish_reason == ("stop" if row.response_token_ids[-1] == 1 else "length")


def test_bounds_and_identities_hold_per_token(rollouts: pd.DataFrame):
    cat = {name: np.concatenate(rollouts[name].to_list()) for name in ("H", "sum_p2", "B", "max_logp", "old_logp")}
    assert (cat["H"] >= -1e-6).all()
    assert (cat["B"] >= -1e-6).all()
    assert (cat["old_logp"] <= cat["max_logp"] + 1e-5).all()
    # Renyi entropies fall with their order: H >= -log sum p^2 >= -max log p.
    assert (cat["H"] + np.log(cat["sum_p2"]) >= -1e-5).all()
    assert (cat["max_logp"] - np.log(cat["sum_p2"]) >= -1e-5).all()


def test_micro_batches_are_the_loss_calls(rollouts: pd.DataFrame):
    for _, step in rollouts.groupby("step"):
        sizes = step.groupby("micro_batch_id").size()
        assert sizes.to_list() == [8, 8]
        for _, batch in step.groupby("micro_batch_id"):
            assert len({tuple(updates) for updates in batch.update_steps}) == 1
    used = sorted({int(s) for updates in rollouts.update_steps for s in updates})
    assert used == list(range(12))


def test_update_facts_are_recorded(rollouts: pd.DataFrame):
    assert np.allclose(rollouts.lr, 1e-3)
    assert np.isfinite(rollouts.grad_norm).all()
    assert set(rollouts.loss_agg) == {"bnpo"}


def test_files_say_how_they_were_made(run: Path):
    meta = pq.read_schema(run / "rollouts" / "step-000001.parquet").metadata
    assert json.loads(meta[b"posttrain_probe"])["scale_rewards"] == "group"


def test_dropping_the_recorder_changes_no_weight(tiny_recipe, tiny_lab: Path, run: Path, tmp_path: Path):  # noqa: F811
    from experiments.lab import rl
    from experiments.lab.world import benchmark

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tiny_lab / "base" / "checkpoint-30"
    rl.reinforce(tiny_recipe, "grpo-format", benchmark(tiny_recipe.world, 3), base, tmp_path, record=False)
    torch.set_num_threads(threads)
    assert not (tmp_path / "rollouts").exists()
    recorded, plain = (load_file(folder / "checkpoint-12" / "model.safetensors") for folder in (run, tmp_path))
    assert recorded.keys() == plain.keys()
    assert all(torch.equal(recorded[name], plain[name]) for name in recorded)
    # Not vacuous: the run moved the weights.
    start = load_file(run / "checkpoint-0" / "model.safetensors")
    assert any(not torch.equal(recorded[name], start[name]) for name in start)


def test_token_statistics_of_known_distributions():
    from probe.training.recording import token_statistics

    uniform, certain = torch.zeros(1, 5), torch.tensor([[50.0, 0, 0, 0, 0]])
    hidden = torch.cat([uniform, certain]).repeat(700, 1)
    out = token_statistics(hidden, lambda rows: rows, torch.zeros(1400, dtype=torch.long))
    np.testing.assert_allclose(out["H"][:2], [np.log(5), 0], atol=1e-6)
    np.testing.assert_allclose(out["B"][:2], [0, 0], atol=1e-6)
    np.testing.assert_allclose(out["sum_p2"][-2:], [0.2, 1], atol=1e-6)
    np.testing.assert_allclose(out["max_logp"][:2], [-np.log(5), 0], atol=1e-6)


def test_a_head_the_recorder_does_not_know_is_refused():
    from probe.errors import ProbeError
    from probe.training.recorded_step import check_agreement

    check_agreement(torch.zeros(3), torch.full((3,), 1e-4), "torch.float32")
    with pytest.raises(ProbeError, match="differ from the trainer's"):
        check_agreement(torch.zeros(3), torch.full((3,), 0.5), "torch.float32")
    with pytest.raises(ProbeError):
        check_agreement(torch.full((1,), float("nan")), torch.zeros(1), "torch.float32")


def test_importing_the_module_loads_neither_torch_nor_trl():
    code = "import sys, probe.training.recording; assert 'torch' not in sys.modules and 'trl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


class Queue:
    """verl's transfer queue held in memory: fields of nested tensors by key."""

    def __init__(self, fields: dict[str, list]):
        self.fields = fields

    def kv_batch_get(self, *, keys, partition_id, select_fields):
        class Data(dict):
            pass

        made = Data()
        for name in select_fields:
            rows = [self.fields[name][int(key.split("_")[1])] for key in keys]
            nested = torch.is_tensor(rows[0])
            made[name] = torch.nested.as_nested_tensor(rows, layout=torch.jagged) if nested else np.array(rows, object)
        return made


def stand_in_for_verl(monkeypatch: pytest.MonkeyPatch, queue: Queue) -> dict:
    """Modules with the few names the verl recipe uses; verl itself is not installed here."""
    import types

    registered: dict = {}

    class PPOTrainerSync:
        def _compute_advantage(self, batch, metrics):
            return batch

    def register_trainer(name):
        return lambda cls: registered.setdefault(name, cls)

    base, sync = (types.ModuleType(f"verl.trainer.ppo.v1.trainer_{n}") for n in ("base", "sync"))
    base.register_trainer, sync.PPOTrainerSync = register_trainer, PPOTrainerSync
    transfer = types.ModuleType("transfer_queue")
    transfer.kv_batch_get = queue.kv_batch_get
    for name in ("verl", "verl.trainer", "verl.trainer.ppo", "verl.trainer.ppo.v1"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for module in (base, sync, transfer):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return registered


def test_the_verl_recipe_writes_the_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    from probe.rollouts import Rollouts

    queue = Queue(
        {
            "uid": ["a", "a", "pad"],
            "prompts": [torch.tensor(x) for x in ([3], [3, 4], [9])],
            "responses": [torch.tensor(x) for x in ([5, 1], [6, 7, 8], [9])],
            "response_mask": [torch.tensor(x) for x in ([1, 1], [1, 0, 1], [0])],
            "rm_scores": [torch.tensor(x) for x in ([0.0, 1], [0.0, 0, 0], [0.0])],
            "old_log_probs": [torch.tensor(x) for x in ([-1.0, -2], [-3.0, -4, -5], [0.0])],
            "rollout_log_probs": [torch.tensor(x) for x in ([-1.5, -2], [-3.0, -4, -5], [0.0])],
            "advantages": [torch.tensor(x) for x in ([1.0, 1], [-1.0, 0, -1], [0.0])],
            "entropy": [torch.tensor(x) for x in ([0.5, 0.5], [0.5, 0.5, 0.5], [0.0])],
        }
    )
    registered = stand_in_for_verl(monkeypatch, queue)
    text = (Path(__file__).parents[2] / "docs" / "record-with-verl.md").read_text()
    exec(text.split("```python\n")[1].split("```")[0], {})
    trainer = registered["sync_recorded"]()
    actor = SimpleNamespace(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28, loss_agg_mode="token-mean")
    rollout = SimpleNamespace(temperature=1.0, top_p=1.0, top_k=-1, calculate_log_probs=True)
    trainer.config = SimpleNamespace(
        trainer=SimpleNamespace(default_local_dir=str(tmp_path), experiment_name="run"),
        actor_rollout_ref=SimpleNamespace(actor=actor, rollout=rollout),
        algorithm={"norm_adv_by_std_in_grpo": True},
    )
    trainer.tokenizer, trainer.global_steps, trainer.use_reference_policy = SimpleNamespace(eos_token_id=1), 1, False
    tags = [{}, {}, {"is_padding": True}]
    batch = SimpleNamespace(keys=["a_0_0", "a_1_0", "pad_2_0"], tags=tags, partition_id="train")
    assert trainer._compute_advantage(batch, {}) is batch
    table = pq.read_table(tmp_path / "rollouts" / "step-000001.rank-0.parquet")
    assert "ref_logp" not in table.column_names
    rows = table.to_pylist()
    assert [row["response_token_ids"] for row in rows] == [[5, 1], [6, 7, 8]]
    assert [row["prompt_token_ids"] for row in rows] == [[3], [3, 4]]
    assert [row["finish_reason"] for row in rows] == ["stop", "length"]
    assert rows[1]["response_mask"] == [True, False, True]
    assert (rows[1]["segment_starts"], rows[1]["segment_type"]) == ([0, 1, 2], ["turn", "tool", "turn"])
    assert [row["advantage"] for row in rows] == [1.0, -1.0]
    assert (rows[0]["old_logp"], rows[0]["sampling_logp"], rows[0]["H"]) == ([-1.0, -2.0], [-1.5, -2.0], [0.5, 0.5])
    log = Rollouts.read(tmp_path / "rollouts")
    assert (log.steps, log.index.groupby("group_uid").size().tolist()) == ([0], [2])


def test_the_aligned_case_is_recorded_from_the_loss_pass(tiny_lab: Path, tmp_path: Path):  # noqa: F811
    # TRL's default: one update per rollout, so that it never computes old log-probs; with accumulation and a reference.
    import trl
    from datasets import Dataset

    from experiments.lab import tokenizer, training
    from probe.training.recording import GRPOTrainer

    base = tiny_lab / "base" / "checkpoint-30"
    options = dict(training.CPU, report_to="none", logging_steps=1)

    def train(trainer_class, folder: Path) -> None:
        args = trl.GRPOConfig(
            output_dir=str(folder), max_steps=2, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            num_generations=4, max_completion_length=6, beta=0.05, learning_rate=1e-3, temperature=0.7, seed=1,
            **options,
        )  # fmt: skip
        rows = [{"prompt": f"Ann has {n} figs . buys 5 . how many ?"} for n in range(5, 13)]
        trainer = trainer_class(
            model=training.load(base), args=args, processing_class=tokenizer.build(),
            train_dataset=Dataset.from_list(rows),
            reward_funcs=[lambda completions, **_: [float(len(set(text.split()))) for text in completions]],
        )  # fmt: skip
        training.timed_training(trainer)
        trainer.save_model(str(folder / "end"))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(GRPOTrainer, tmp_path / "recorded")
    train(trl.GRPOTrainer, tmp_path / "plain")
    torch.set_num_threads(threads)
    ends = [load_file(tmp_path / name / "end" / "model.safetensors") for name in ("recorded", "plain")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    table = pq.read_table(tmp_path / "recorded" / "rollouts").to_pandas()
    assert table.groupby("step").size().to_dict() == {0: 8, 1: 8}
    assert sorted(p.name for p in (tmp_path / "recorded" / "rollouts").iterdir()) == [
        "step-000001.parquet",
        "step-000002.parquet",
    ]
    for _, row in table[table.step == 0].iterrows():
        ids = torch.tensor(list(row.response_token_ids)).long()
        logp = (distribution(base, row) / 0.7).log_softmax(-1)
        np.testing.assert_allclose(row.old_logp, logp[torch.arange(len(ids)), ids].numpy(), atol=1e-4)
        np.testing.assert_allclose(row.H, -(logp.exp() * logp).sum(-1).numpy(), atol=1e-4)
        # The reference is the starting model, and the first update's policy is the sampler.
        np.testing.assert_allclose(row.ref_logp, row.old_logp, atol=1e-4)
        np.testing.assert_allclose(row.new_logp, row.old_logp, atol=1e-6)
    assert set(table.n_updates) == {1}
    assert np.isfinite(table.grad_norm).all()
    assert table.logp_temperature.iloc[0] == pytest.approx(0.7)


def test_the_toolkits_reader_takes_the_files(run: Path, rollouts: pd.DataFrame):
    from probe.rollouts import Rollouts

    assert len(Rollouts.read(run / "rollouts")) == len(rollouts)


def test_segments_are_the_runs_of_the_mask_and_absent_log_probs_no_column(run: Path, rollouts: pd.DataFrame):
    # No tool spoke and the trainer sampled by itself.
    assert all(list(starts) == [0] for starts in rollouts.segment_starts)
    assert all(list(types) == ["turn"] for types in rollouts.segment_type)
    assert not {"sampling_logp", "ref_logp"} & set(rollouts.columns)


def test_an_engines_log_probs_and_a_tools_answer_are_written(tmp_path: Path):
    from probe.readers.segments import from_masks
    from probe.rollouts import Rollouts
    from probe.training.recorded_step import Pending, write_step

    mask = [True, True, False, True]
    starts, types = from_masks([mask])
    columns = {name: [None] for name in ("run_id", "policy_version", "finish_reason", "loss_agg", "ref_logp")}
    columns |= {name: [1.0] for name in ("reward", "advantage", "adv_eps", "temperature", "top_p", "logp_temperature")}
    columns |= {"clip_low": [0.2], "clip_high": [0.2], "top_k": [0], "adv_std_normalised": [True], "reward_parts": [[]]}
    columns |= {"step": [0], "prompt_id": ["q"], "group_uid": ["0-0"], "prompt_token_ids": [[1]]}
    columns |= {"response_token_ids": [[2, 3, 4, 5]], "response_mask": [mask], "sampling_logp": [[-1.0, -2, -3, -4]]}
    pending = Pending(0, {**columns, "segment_starts": starts, "segment_type": types}, [[2, 3, 4, 5]])
    write_step(pending, tmp_path / "step-000001.parquet", {})
    log = Rollouts.read(tmp_path)
    row = log.data.to_table().to_pylist()[0]
    assert (row["segment_starts"], row["segment_type"]) == ([0, 2, 3], ["turn", "tool", "turn"])
    assert row["sampling_logp"] == [-1, -2, -3, -4]
    assert "ref_logp" not in log.columns
    assert len(log) == 1
