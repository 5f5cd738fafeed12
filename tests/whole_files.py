"""A whole file of every format that is read, as its program writes it, for tests that damage them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses import Result, Store
from analyses.core.stats import estimate
from apps.command import study_file
from probe import Checkpoint, Model, Prompts, Rollouts, RunLog, discover
from probe.readers.response_logs import read_responses
from tests import tiny

DATA = Path(__file__).parent / "probe" / "data"
Read = Callable[[Path], object]

PROMPTS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "What is 3 + 4?", "answer": "7", "group": "leak", "difficulty": 0.5, "seen": True},
    {"id": "b", "prompt": "What is 2 x 5?", "answer": "10", "group": "x", "difficulty": 1, "seen": False},
    {"id": "c", "messages": [{"role": "user", "content": "Say é 🙂"}], "answer": "\u2028 10", "group": "x"},
]
ROLLOUTS: list[dict[str, Any]] = [
    {"step": step, "prompt_id": "p1", "prompt": "2 + 2 ?", "completion": f"it is {k}", "response_token_ids": [5, 6, k],
     "token_logprobs": [-0.5, -0.25, -1.0], "reward": float(k), "advantage": k - 0.5}
    for step in (1, 2) for k in range(2)
]  # fmt: skip
LOGGED: dict[str, list[dict[str, Any]]] = {
    "responses": [
        {"step": 10, "item": "q1", "response": "so 7", "gold": "7", "sample": 0, "group": "a"},
        {"step": 10, "item": "q2", "response": "it is 8", "gold": "8", "sample": 0, "group": "b"},
    ],
    "harness": [
        {"doc_id": n, "doc": {"question": f"{n}+2?", "answer": f"#### {n + 2}"}, "target": str(n + 2), "filter": "none",
         "arguments": {"gen_args_0": {"arg_0": f"{n}+2?"}}, "resps": [["is 4"]], "filtered_resps": ["4"]}
        for n in range(2)
    ],
}  # fmt: skip
SCALARS: list[dict[str, Any]] = [{"step": n, "loss": 1 / (n + 1), "actor/entropy": 0.5, "epoch": 0.1} for n in range(4)]


def written(folder: Path) -> dict[str, tuple[Path, Read]]:
    """Name -> (the file to damage, what reads it or all it belongs to)."""
    return {**_tables(folder), **_runs(folder), **_checkpoints(folder), **_results(folder)}


def _tables(folder: Path) -> dict[str, tuple[Path, Read]]:
    kinds: dict[str, tuple[list[dict[str, Any]], Read]] = {
        "prompts": (PROMPTS, Prompts.read),
        "rollouts": (ROLLOUTS, lambda p: Rollouts.read(p).fingerprint()),
        **{name: (rows, read_responses) for name, rows in LOGGED.items()},
        "runlog": (SCALARS, RunLog.read),
    }
    found: dict[str, tuple[Path, Read]] = {}
    for name, (rows, read) in kinds.items():
        plain = [row for row in rows if "messages" not in row]
        flat = [{k: v if isinstance(v, str | float | int) else json.dumps(v) for k, v in r.items()} for r in plain]
        frame = pd.DataFrame(flat if name != "rollouts" else rows)
        files = {s: folder / f"{name}{s}" for s in (".jsonl", ".json", ".csv", ".tsv", ".parquet")}
        files[".jsonl"].write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        files[".json"].write_text(json.dumps(rows))
        frame.to_csv(files[".csv"], index=False)
        frame.to_csv(files[".tsv"], index=False, sep="\t")
        frame.to_parquet(files[".parquet"], index=False)
        written_as = {"rollouts": (".jsonl", ".parquet"), "harness": (".jsonl", ".json")}.get(name, tuple(files))
        found |= {f"{name}{suffix}": (files[suffix], read) for suffix in written_as}
    return found


def _runs(folder: Path) -> dict[str, tuple[Path, Read]]:
    (folder / "7").mkdir()
    prompt, answer = (f"\x1b[33m\x1b[2m{text}\x1b[0m\n" for text in ("2+2", "4"))
    dump = f"idx: 0 / 1, seqlen: 9, reward is 1.0.\nprompt is \n{prompt}sequence is: \n{answer}"
    (folder / "7" / "q.txt").write_text(dump)
    (folder / "console.log").write_text(
        "".join(f"step:{n} - actor/entropy:0.5 - loss:np.float64(1.5)\n" for n in range(3))
    )
    sample = {"prompt": "a", "response": "b", "reward": 1.0, "index": 0, "group_index": 0, "tokens": [1, 2]}
    sample |= {"response_length": 1, "rollout_log_probs": [-0.5]}
    torch.save({"rollout_id": 4, "samples": [sample]}, folder / "rollout_4.pt")
    with zipfile.ZipFile(folder / "log.eval", "w") as archive:
        sample = {
            "id": "q",
            "epoch": 1,
            "input": "2+2?",
            "target": "4",
            "output": {"choices": [{"message": {"content": "4"}}]},
        }
        archive.writestr("samples/q_epoch_1.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps({"eval": {"task": "t", "model": "m"}}))
    run = DATA / "grpo-run"
    copied = {f.name: folder / f.name for f in run.iterdir()}
    for file in run.iterdir():
        copied[file.name].write_bytes(file.read_bytes())
    logs: dict[str, tuple[Path, Read]] = {f"run {name}": (path, RunLog.read) for name, path in copied.items()}
    return {
        **logs,
        "console": (folder / "console.log", RunLog.read),
        "areal": (folder / "7" / "q.txt", Rollouts.read),
        "slime": (folder / "rollout_4.pt", Rollouts.read),
        "inspect": (folder / "log.eval", read_responses),
    }


def _checkpoints(folder: Path) -> dict[str, tuple[Path, Read]]:
    root = tiny.save(folder / "run" / "checkpoint-10")
    (root / "trainer_state.json").write_text(json.dumps({"global_step": 10, "log_history": SCALARS}))

    def loaded(_: Path) -> object:
        (one,) = discover(folder / "run")
        return Model.load(one, check=False).weights()

    def told(_: Path) -> object:
        return [(c.step, c.fingerprint(), c.tokenizer_fingerprint()) for c in discover(folder / "run")]

    files = {
        "config.json": loaded,
        "model.safetensors": loaded,
        "trainer_state.json": told,
        "generation_config.json": loaded,
    }
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(root),
                    "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}))  # fmt: skip
    from safetensors.torch import save_file

    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    sides = {"A": torch.ones(2, 32), "B": torch.ones(32, 2)}
    weights = {name.format(layer, side): values.clone() for layer in range(3) for side, values in sides.items()}
    save_file(weights, adapter / "adapter_model.safetensors")
    adapted: Read = lambda _: Model.load(Checkpoint.of(adapter), check=False).weights()  # noqa: E731
    return {
        **{f"checkpoint {name}": (root / name, read) for name, read in files.items() if (root / name).is_file()},
        "adapter config": (adapter / "adapter_config.json", adapted),
        "adapter weights": (adapter / "adapter_model.safetensors", adapted),
    }


def _results(folder: Path) -> dict[str, tuple[Path, Read]]:
    store = Store(folder / "results")
    table = pd.DataFrame({"item": ["a", "b"], "group": ["x", "x"], "value": [0.5, 1.0]})
    result = Result.of(table, estimate(table, "value", ["group"], seed=0, units="1"))
    result = result.with_record(analysis="perplexity", key="0" * 16, kind="run", inputs={}, options={}, schema=1)
    store.put(result)
    place = folder / "results" / "perplexity" / ("0" * 16)

    def read(_: Path) -> object:
        found = store.get("perplexity", "0" * 16)
        return len(found.table), found.summary(), store.records()

    study = folder / "study.toml"
    study.write_text('runs = ["out"]\nprompts = "items.jsonl"\nquestions = ["memory"]\n\n[own.evaluate]\nsamples = 4\n')
    return {
        **{f"result {f.name}": (f, read) for f in sorted(place.iterdir()) if f.is_file()},
        "study": (study, study_file.read),
    }
