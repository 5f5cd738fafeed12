"""Which run a checkpoint belongs to, by where its trainer put it."""

from __future__ import annotations

import pytest

from analyses.core.store.naming import run_folder


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("out/checkpoint-60", "out"),
        ("/data/verl/global_step_60/actor/huggingface", "/data/verl"),
        ("/data/verl/global_step_60/actor", "/data/verl"),
        ("ckpt/global_step20_hf", "."),
        ("runs/openrlhf/ckpt/global_step20_hf", "runs/openrlhf"),
        ("runs/tulu/step_100", "runs/tulu"),
        ("runs/prime/weights/step_10", "runs/prime"),
        ("runs/sky/exports/global_step_5/policy", "runs/sky"),
        ("out/checkpoint-10-merged", "out"),
        ("models/base", "models/base"),
        ("out", "out"),
    ],
)
def test_a_run_is_what_holds_the_folders_of_its_steps(path: str, run: str) -> None:
    assert run_folder(path) == run
