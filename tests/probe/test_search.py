"""Series as trainers leave them: folders laid out by hand after each trainer, with files a few bytes long."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from probe import Checkpoint, discover
from probe.errors import InputError


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "out"


def weights(say: str) -> bytes:
    header = json.dumps({"__metadata__": {"say": say}}).encode()
    return struct.pack("<Q", len(header)) + header


def model(folder: Path, say: str | None = None, *, step: int | None = None, max_steps: int | None = None) -> Path:
    """A folder that looks whole; two of them with one saying hold the same bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights(say or folder.name))
    if step is not None:
        state = {"global_step": step} | ({} if max_steps is None else {"max_steps": max_steps})
        (folder / "trainer_state.json").write_text(json.dumps(state))
    return folder


def adapter(folder: Path, base: str = "org/base", say: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(weights(say or folder.name))
    return folder


def trained(run: Path, steps: tuple[int, ...] = (10, 20), max_steps: int | None = None) -> Path:
    for step in steps:
        model(run / f"checkpoint-{step}", step=step, max_steps=max_steps)
    return run


def steps(*sources: Path | str, **options: str | Path) -> list[int | None]:
    return [c.step for c in discover(list(sources), **options)]


def test_numbered_folders_beside_what_is_none(run: Path) -> None:
    trained(run, (5, 100, 20))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        (run / "checkpoint-5" / name).write_bytes(b"x")
    (run / "optimizer-only" / "inner").mkdir(parents=True)
    (run / "runs").mkdir()
    found = discover(run)
    assert ([c.step for c in found], found.notes) == ([5, 20, 100], ())


@pytest.mark.parametrize("name", ["checkpoint-{}", "step_{}"])  # transformers and what builds on it; open-instruct
def test_a_root_saved_again_is_the_step_it_equals(run: Path, name: str) -> None:
    for step in (10, 20):
        model(run / name.format(step))
    rooted(run, name.format(20))
    found = discover(run)
    assert [c.label for c in found] == [name.format(10), name.format(20)]
    assert f"is {name.format(20)}, saved again" in found.notes[0]


def rooted(run: Path, say: str, **state: int) -> Path:
    whole = model(run.parent / "whole", say, **state)
    for file in whole.iterdir():
        file.rename(run / file.name)
    whole.rmdir()
    return run


def test_a_best_model_loaded_at_the_end_is_its_own_step(run: Path) -> None:
    rooted(trained(run), "checkpoint-10", step=20)
    found = discover(run)
    assert ([c.step for c in found], "is checkpoint-10, saved again" in found.notes[0]) == ([10, 20], True)


@pytest.mark.parametrize(
    ("own", "planned", "want", "told"),
    [(25, None, 25, ""), (None, 24, 24, "the last step planned"), (None, None, 21, "the first number after")],
)
def test_a_root_with_other_weights_is_the_last_step(
    run: Path, own: int | None, planned: int | None, want: int, told: str
) -> None:
    rooted(trained(run, max_steps=planned), "final", **({} if own is None else {"step": own}))
    found = discover(run)
    assert [c.step for c in found] == [10, 20, want]
    assert found[-1].path == str(run)
    assert (told in found.notes[0]) if told else not found.notes


def test_a_root_of_a_run_that_ended_with_its_last_checkpoint_is_left_out(run: Path) -> None:
    rooted(trained(run, max_steps=20), "merged in another way")
    found = discover(run)
    assert [c.step for c in found] == [10, 20]
    assert "training ended at step 20" in found.notes[0]


def test_adapters_with_the_last_one_saved_again_in_the_root(run: Path) -> None:
    for step in (4, 8):
        adapter(run / f"checkpoint-{step}")
    last = adapter(run.parent / "last", say="checkpoint-8")
    for file in last.iterdir():
        file.rename(run / file.name)
    found = discover(run)
    assert [(c.step, c.path, c.adapter) for c in found] == [
        (step, "org/base", str(run / f"checkpoint-{step}")) for step in (4, 8)
    ]


def test_scratch_and_half_written_folders_are_left_out_and_named(run: Path) -> None:
    trained(run)
    for name in ("tmp-checkpoint-30", ".tmp-checkpoint-10", ".hidden", "checkpoint-50.tmp"):
        model(run / name)
    (run / "checkpoint-40").mkdir()
    (run / "checkpoint-40" / "config.json").write_text("{}")
    found = discover(run)
    assert [c.step for c in found] == [10, 20]
    for name in ("tmp-checkpoint-30", ".tmp-checkpoint-10", ".hidden", "checkpoint-50.tmp"):
        assert any(f"{name} is left out: a hidden or temporary" in n for n in found.notes)
    assert any("checkpoint-40 is left out: half-written" in n for n in found.notes)


def test_a_truncated_checkpoint_is_a_member_for_the_load_to_refuse(run: Path) -> None:
    file = trained(run) / "checkpoint-20" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    found = discover(run)
    assert [c.step for c in found] == [10, 20]
    with pytest.raises(InputError, match="truncated"):
        found[1].fingerprint()


def test_links_and_equal_copies_collapse(run: Path) -> None:
    trained(run)
    (run / "latest").symlink_to("checkpoint-20")
    (run / "checkpoint-20-link").symlink_to("checkpoint-20")
    shutil.copytree(run / "checkpoint-20", run / "checkpoint-20 (1)")
    (run / "checkpoint-20 (1)" / "trainer_state.json").unlink()
    (run / "gone").symlink_to("nowhere")
    found = discover(run)
    assert [c.label for c in found] == ["checkpoint-10", "checkpoint-20"]
    (note,) = found.notes
    assert "checkpoint-20 (1) is left out: the same weights" in note


def test_a_folder_without_a_step_is_named_with_what_to_do(run: Path) -> None:
    base = model(trained(run) / "base")
    found = discover(run)
    assert [c.step for c in found] == [10, 20]
    assert f"give it as STEP={base}" in found.notes[0]
    assert steps(run, f"0={base}") == [0, 10, 20]
    assert steps(run, base=base) == [0, 10, 20]


def test_a_best_checkpoint_is_told_apart_from_its_steps(run: Path) -> None:
    for name in ("global_step20_hf", "best_global_step20_hf", "best_global_step10_hf"):
        model(run / name)
    found = discover(run)
    assert [(c.step, c.label) for c in found] == [(10, "best_global_step10_hf"), (20, "global_step20_hf")]
    assert "kept as the best of training" in found.notes[0]


def test_two_different_checkpoints_of_one_step_are_refused(run: Path) -> None:
    for name in ("step_5", "checkpoint-5"):
        model(run / name)
    with pytest.raises(InputError, match=r"step 5 twice.*STEP=FOLDER"):
        discover(run)


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (("epoch_0", "epoch_1"), [0, 1]),  # torchtune
        (("iter10-ckpt", "iter200-ckpt"), [10, 200]),
        (("iter_0000010", "iter_0000020"), [10, 20]),  # slime, NeMo
        (("step-10", "step-1000"), [10, 1000]),  # torchtitan
        (("epoch=0-step=10", "epoch=1-step=20"), [10, 20]),  # Lightning's names
        (("step_10", "step_20"), [10, 20]),  # prime-rl, open-instruct
        (("100", "1000"), [100, 1000]),
        (("ckpt-3", "ckpt-12"), [3, 12]),
        (("checkpoint-10-merged", "checkpoint-20-merged"), [10, 20]),
        (("stage1-step150-tokens2B", "stage1-step2000-tokens9B"), [150, 2000]),
    ],
)
def test_names_of_steps(run: Path, names: tuple[str, ...], want: list[int]) -> None:
    for name in names:
        model(run / name)
    found = discover(run)
    assert [c.step for c in found] == want
    assert {c.stage for c in found} == {"out"}
    assert bool(found.notes) == names[0].startswith("epoch_")


@pytest.mark.parametrize(
    "inner",
    [
        "weights/step_{}",
        "exports/global_step_{}/policy",
        "ckpt/global_step_{}/actor/huggingface",
        "ckpts/global_step{}_hf",
    ],
)
def test_the_folder_above_is_enough(run: Path, inner: str) -> None:
    for step in (10, 20):
        model(run / inner.format(step))
    assert steps(run) == steps((run / inner).parent if "/" not in inner.partition("{}")[2] else run) == [10, 20]


def test_exported_weights_are_taken_where_a_trainers_own_state_lies_beside(run: Path) -> None:
    for step in (10, 20):
        model(run / f"weights/step_{step}")
        state = run / f"checkpoints/step_{step}/trainer"
        state.mkdir(parents=True)
        (state / ".metadata").touch()
        (state / "__0_0.distcp").touch()
    found = discover(run)
    assert [c.path for c in found] == [str(run / f"weights/step_{step}") for step in (10, 20)]


def test_two_stages_side_by_side_are_stages(run: Path) -> None:
    for stage in ("sft", "rl"):
        for step in (10, 20):
            model(run / stage / f"step_{step}", f"{stage}{step}")
    assert [(c.stage, c.step) for c in discover(run)] == [("rl", 10), ("rl", 20), ("sft", 10), ("sft", 20)]


def test_globs_lists_and_numbered_folders(run: Path) -> None:
    trained(run, (5, 10, 20))
    assert steps(f"{run}/checkpoint-1*", run / "checkpoint-5") == [5, 10]
    assert steps(f"{run}/checkpoint-*") == [5, 10, 20]
    assert steps(f"7={run}/checkpoint-20", f"3={run}/checkpoint-5") == [3, 7]
    with pytest.raises(InputError, match="no checkpoints match"):
        discover(f"{run}/step-*")
    with pytest.raises(InputError, match="no folder"):
        discover(f"100={run}/none")


def test_a_step_given_by_hand_stands_above_the_name(run: Path) -> None:
    trained(run)
    (found,) = discover(f"500={run}/checkpoint-10")
    assert (found.step, found.path) == (500, str(run / "checkpoint-10"))


def test_the_hubs_cache_folder_is_read(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--tiny"
    for name, commit in (("main", "c3"), ("step10", "c1"), ("step20", "c2")):
        model(repo / "snapshots" / commit, commit)
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    (repo / "blobs").mkdir()
    found = discover(repo)
    assert [(c.step, Path(c.path).name) for c in found] == [(10, "c1"), (20, "c2")]
    assert "revision main is left out" in found.notes[0]
    shutil.rmtree(repo / "refs")
    shutil.rmtree(repo / "snapshots" / "c1")
    shutil.rmtree(repo / "snapshots" / "c2")
    assert [Path(c.path).name for c in discover(repo)] == ["c3"]


def test_addresses_are_spelt_as_given(tmp_path: Path) -> None:
    for given in ("s3://bucket/run", Path("s3://bucket/run"), "gs://bucket/run/checkpoint-10", "10=s3://bucket/run"):
        want = str(given).partition("=")[2] or str(given).replace(":/b", "://b")
        with pytest.raises(InputError, match=want):
            discover(given)
    with pytest.raises(InputError, match="s3://bucket/run"):
        Checkpoint.of("s3://bucket/run")


def test_an_adapter_whose_base_moved_says_how_to_give_it(run: Path) -> None:
    adapter(run / "checkpoint-5", str(run / "gone"))
    base = model(run.parent / "base")
    (moved,) = discover(run)
    with pytest.raises(InputError, match=r"not at .*gone.*--base FOLDER, or write BASE\+"):
        moved.fingerprint()
    series = discover(run, base=base)
    assert [(c.step, c.path, c.adapter is None) for c in series] == [(0, str(base), True), (5, str(base), False)]
    assert series[1].fingerprint()
    joined = Checkpoint.of(f"{base}+{run / 'checkpoint-5'}")
    assert (joined.path, joined.adapter, joined.step) == (str(base), str(run / "checkpoint-5"), 5)


@pytest.mark.parametrize(
    ("said", "told"), [('{"peft_type": "LO', "malformed"), ("[]", "no JSON object"), ("{}", "no base")]
)
def test_an_adapter_with_a_torn_configuration_does_not_stop_its_series(run: Path, said: str, told: str) -> None:
    base = model(run.parent / "base")
    for step in (5, 10):
        adapter(run / f"checkpoint-{step}", str(base))
    (run / "checkpoint-10" / "adapter_config.json").write_text(said)
    good, torn = discover(run)
    assert (good.step, torn.step, bool(good.fingerprint())) == (5, 10, True)
    with pytest.raises(InputError, match=rf"checkpoint-10.*{told}"):
        torn.fingerprint()


def test_a_base_beside_a_step_0_is_said_to_be_used_for_adapters_only(run: Path) -> None:
    trained(run, (0, 10))
    found = discover(run, base=model(run.parent / "base"))
    assert ([c.step for c in found], "step 0 of its own" in found.notes[0]) == ([0, 10], True)


def test_the_revision_an_adapter_names_is_that_of_its_base(run: Path) -> None:
    adapter(run)
    config = {"base_model_name_or_path": "org/base", "revision": "step7", "peft_type": "LORA"}
    (run / "adapter_config.json").write_text(json.dumps(config))
    assert Checkpoint.of(run) == Checkpoint("org/base", revision="step7", adapter=str(run))
    assert Checkpoint.of(run).label == "out"


def test_an_adapter_folder_with_a_copied_configuration_is_an_adapter(run: Path) -> None:
    adapter(run)
    (run / "config.json").write_text("{}")  # axolotl writes one
    assert Checkpoint.of(run).adapter == str(run)


def test_what_is_hashed_is_what_is_loaded(run: Path) -> None:
    model(run, "one file")
    before = Checkpoint.of(run).fingerprint()
    (run / "model-00001-of-00001.safetensors").write_bytes(weights("shards of an earlier save"))
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (run / "model.safetensors.index.json").write_text(json.dumps(index))
    assert Checkpoint.of(run).fingerprint() == before  # transformers reads the one file
    (run / "model.safetensors").write_bytes(weights("another one"))
    assert Checkpoint.of(run).fingerprint() != before
    (run / "model.safetensors").unlink()
    assert Checkpoint.of(run).weight_files == [run / "model-00001-of-00001.safetensors"]


def test_other_bytes_under_the_same_size_and_time_are_told_apart(run: Path) -> None:
    import os

    file = model(run, "aaaa") / "model.safetensors"
    stat, before = file.stat(), Checkpoint.of(run).fingerprint()
    file.write_bytes(weights("bbbb"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert Checkpoint.of(run).fingerprint() != before


def test_a_folder_of_models_is_no_step_whatever_its_folders_are_called(run: Path) -> None:
    for name in ("hf", "merged"):
        model(run / name)
    assert [Path(c.path).name for c in discover(run)] == ["hf", "merged"]


def test_epochs_beside_steps_are_left_out(run: Path) -> None:
    for name in ("epoch_0", "epoch_1", "step_5"):
        model(run / name)
    found = discover(run)
    assert ([c.step for c in found], len(found.notes)) == ([5], 2)
