"""The page "Bring your own run": each sentence about folders has a test by name, each row of its table is laid out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from probe import discover
from tests.conftest import ROOT
from tests.probe.test_search import adapter, model, steps

PAGE = (ROOT / "docs" / "start" / "own-run.md").read_text()
SECTION = PAGE.partition("## Which folder to give\n")[2].partition("Prompts are JSONL, one item a line:")[0]

SEARCH, SHARDS, FORMATS = "tests/probe/test_search.py", "tests/probe/test_shards.py", "tests/probe/test_formats.py"
FIT, SWEEP, COMMANDS = "tests/probe/test_fit.py", "tests/core/test_sweep.py", "tests/apps/test_checkpoint_sources.py"
ADAPTERS, HERE = "tests/probe/test_adapters.py", "tests/apps/test_own_run.py"

# How a sentence of the section begins -> the test that tries it.
TRIED = {
    "Give the folder that the trainer wrote into": (HERE, "test_a_row_of_the_table_is_found"),
    "`probe.discover` finds the checkpoints": (SEARCH, "test_numbered_folders_beside_what_is_none"),
    "A model in the output folder itself is the last step": (SEARCH, "test_a_root_with_other_weights_is_the_last_step"),
    "If its bytes equal those of a checkpoint": (SEARCH, "test_a_root_saved_again_is_the_step_it_equals"),
    "The base of an adapter is read from": (SEARCH, "test_adapters_with_the_last_one_saved_again_in_the_root"),
    "If the base was moved": (COMMANDS, "test_a_moved_base_is_given_on_the_line"),
    "Where verl exported whole weights": (HERE, "test_weights_that_verl_exported_go_before_its_shards"),
    "`--config FOLDER` names a folder": (SHARDS, "test_pickled_shards_need_leave_and_a_configuration"),
    "In a folder with `epoch_N`": (SEARCH, "test_names_of_steps"),
    "The result says so": (SEARCH, "test_names_of_steps"),
    "A study takes the folder": ("tests/apps/test_study_command.py", "test_a_trainers_folder_is_one_run"),
    "A sweep of one analysis takes the other forms too": (COMMANDS, "test_globs_several_folders_and_numbered_ones"),
    "What is left out": (COMMANDS, "test_a_finished_run_is_swept_whole_and_what_is_left_out_is_told"),
    "A folder that is no checkpoint is left out": (SEARCH, "test_a_folder_without_a_step_is_named_with_what_to_do"),
    "Temporary, hidden and half-written": (SEARCH, "test_scratch_and_half_written_folders_are_left_out_and_named"),
    "An equal copy of a checkpoint is left out": (SEARCH, "test_links_and_equal_copies_collapse"),
    "A link to one is not counted twice": (SEARCH, "test_links_and_equal_copies_collapse"),
    "A `best_*` folder is left out": (SEARCH, "test_a_best_checkpoint_is_told_apart_from_its_steps"),
    "A checkpoint that cannot be read": (COMMANDS, "test_a_bad_checkpoint_is_told_at_the_end_with_exit_code_one"),
    "It is named at the end": (COMMANDS, "test_a_bad_checkpoint_is_told_at_the_end_with_exit_code_one"),
    "Two stages side by side": (SWEEP, "test_stages_with_the_same_steps_are_swept_one_by_one"),
    "Give them one by one": (SWEEP, "test_stages_with_the_same_steps_are_swept_one_by_one"),
    "Shards are read directly": (SHARDS, "test_one_tensor_is_put_together_at_a_time"),
    "These are read: verl's": (SHARDS, "test_every_tensor_is_that_of_the_full_model"),
    "DeepSpeed's file has the weights in training": (SHARDS, "test_deepspeeds_whole_weights_are_read"),
    "The fp32 master weights lie": (SHARDS, "test_deepspeeds_whole_weights_are_read"),
    "Shards are pickles": (COMMANDS, "test_shards_are_swept_with_leave_and_a_configuration"),
    "Only tensors and plain values are built": (SHARDS, "test_metadata_that_names_anything_but_tensors_is_refused"),
    "The layouts of verl and accelerate were checked": (SHARDS, "test_every_tensor_is_that_of_the_full_model"),
    "That of DeepSpeed was written": (SHARDS, "test_deepspeeds_whole_weights_are_read"),
    "Not read": (COMMANDS, "test_a_format_that_is_not_read_ends_with_its_command"),
    "These are named, each with the command": (FORMATS, "test_the_format_is_named_and_the_command_printed"),
    "Reward models and classifiers are refused": (FIT, "test_reward_models_and_classifiers_are_refused_by_name"),
    "So are adapters of prompt tuning": (ADAPTERS, "test_what_cannot_be_merged_is_refused_in_words"),
    "Quantised folders": (FIT, "test_a_missing_package_is_named_as_pip_names_it"),
    "Analyses of weights refuse them": (FIT, "test_bitsandbytes_folders_give_logits_and_no_weights"),
    "A QLoRA adapter stays beside": (ADAPTERS, "test_over_packed_weights_an_adapter_stays_beside_them"),
}  # fmt: skip

# Row of the table -> (folders it names, the steps that are read off them); other rows have tests of their own.
FOLDERS: dict[str, list[tuple[str, list[int]]]] = {
    "transformers `Trainer`": [("checkpoint-{}", [10, 20])],
    "verl, SkyRL": [("global_step_{}/actor/huggingface", [10, 20]), ("exports/global_step_{}/policy", [10, 20])],
    "OpenRLHF": [
        ("global_step{}_hf", [10, 20]), ("step_{}", [10, 20]), ("weights/step_{}", [10, 20]),
        ("exports/step_{}", [10, 20]), ("ckpt/global_step{}_hf", [10, 20]),
    ],
    "torchtune": [("epoch_{}", [10, 20]), ("iter_{}", [10, 20]), ("step-{}", [10, 20]), ("{}", [10, 20])],
}  # fmt: skip
ROWS_TRIED = {
    "PEFT": (HERE, "test_adapters_are_found_in_the_same_folders"),
    "accelerate and transformers with FSDP": (SHARDS, "test_every_tensor_is_that_of_the_full_model"),
    "DeepSpeed ZeRO-1": (SHARDS, "test_deepspeeds_whole_weights_are_read"),
    "a Hub repository": (SEARCH, "test_the_hubs_cache_folder_is_read"),
    "anything else": (SEARCH, "test_globs_lists_and_numbered_folders"),
}


@pytest.fixture(autouse=True)
def cache_elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path_factory.mktemp("cache")))


def sentences() -> list[str]:
    """The section's sentences, without its table, its commands and the marks of a list."""
    text = re.sub(r"```.*?```", "", SECTION, flags=re.DOTALL)
    blocks = re.split(r"\n\n|\n(?=- )", "\n".join(line for line in text.splitlines() if not line.startswith("|")))
    plain = [" ".join(block.removeprefix("- ").replace("**", "").split()) for block in blocks]
    return [s for block in plain for s in re.split(r"(?<=[.])\s+(?=[A-Z`])", block) if s]


def table() -> dict[str, tuple[str, str]]:
    """Trainer -> (what to give, how the step is read)."""
    rows = [line.strip("| ").split(" | ") for line in SECTION.splitlines() if line.startswith("| ")]
    return {name: (give, how) for name, give, how in rows[1:]}


def exists(test: tuple[str, str]) -> bool:
    file, name = test
    return re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE) is not None


def test_every_sentence_about_folders_has_a_test() -> None:
    for sentence in sentences():
        assert any(sentence.startswith(start) for start in TRIED), f"no test is named for: {sentence}"
    for start, test in TRIED.items():
        assert any(sentence.startswith(start) for sentence in sentences()), f"not on the page: {start}"
        assert exists(test), test


def test_sentences_are_short() -> None:
    """Subject, verb, object: a list of names may be longer."""
    assert all(len(s.split()) <= 30 for s in sentences() if s.count(",") < 4), max(sentences(), key=len)


def test_every_row_of_the_table_has_a_test() -> None:
    known = [*FOLDERS, *ROWS_TRIED]
    for trainer in table():
        assert sum(trainer.startswith(start) for start in known) == 1, trainer
    assert len(known) == len(table()) and all(map(exists, ROWS_TRIED.values()))


@pytest.mark.parametrize(("trainer", "inner", "want"), [(t, i, w) for t, rows in FOLDERS.items() for i, w in rows])
def test_a_row_of_the_table_is_found(trainer: str, inner: str, want: list[int], tmp_path: Path) -> None:
    run = tmp_path / "out"
    for step in want:
        model(run / inner.format(step))
    found = discover(run)
    assert [c.step for c in found] == want and {c.stage for c in found} == {"out"}
    (give,) = [give for name, (give, _) in table().items() if name.startswith(trainer)]
    spelt = re.sub(r"\{\}", "N", inner).split("/")
    assert any(part in give or part == "N" for part in spelt), f"{inner} is not what the page says: {give}"


def test_a_step_is_read_off_trainer_state_where_the_name_has_none(tmp_path: Path) -> None:
    run = tmp_path / "out"
    model(run / "checkpoint-10", step=10)
    model(run / "final", step=30)
    alone = discover(run / "final")
    assert [c.step for c in alone] == [30]
    assert steps(run / "checkpoint-10", f"30={run / 'final'}") == [10, 30]


def test_adapters_are_found_in_the_same_folders(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    for step in (4, 8):
        adapter(tmp_path / "out" / f"checkpoint-{step}", str(base))
    assert [(c.step, c.path) for c in discover(tmp_path / "out")] == [(4, str(base)), (8, str(base))]


def test_weights_that_verl_exported_go_before_its_shards(tmp_path: Path) -> None:
    actor = tmp_path / "out" / "global_step_10" / "actor"
    model(actor / "huggingface")
    (actor / "model_world_size_1_rank_0.pt").touch()
    (found,) = discover(tmp_path / "out")
    assert (found.step, found.path) == (10, str(actor / "huggingface"))
