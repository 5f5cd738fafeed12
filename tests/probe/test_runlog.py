"""Run logs: every writer's form gives the same scalars, and bad ones are refused by name."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from probe import InputError, RunLog

VALUES = {1: 0.5, 2: 0.25, 300: 0.125}
ROWS = [{"step": s, "entropy": h, "reward": 1 - h} for s, h in VALUES.items()]

# Written by tensorboard 2.21's own writer: `actor/entropy` at steps 1, 2, 300 (simple_value) and `loss` as a tensor.
EVENTS = Path(__file__).parent / "data" / "events.out.tfevents.1"


def write(folder: Path, kind: str) -> Path:
    file = folder / {"trackio": "p.db", "wandb": "h.csv", "state": "trainer_state.json"}.get(kind, f"{kind}.jsonl")
    if kind == "state":
        closing_row = {"step": 300, "train_runtime": 3.0, "train_loss": 9.0}
        history = [*ROWS, {"step": 2, "eval_loss": 1.5}, closing_row]
        file.write_text(json.dumps({"global_step": 300, "log_history": history}))
    elif kind == "verl":
        lines = [{"step": s, "data": {"actor/entropy": h, "critic/score/mean": 1 - h}} for s, h in VALUES.items()]
        file.write_text("\n".join(map(json.dumps, lines)))
    elif kind == "console":
        line = "(pid=7) step:{} - actor/entropy:{} - critic/score/mean:np.float64({})"
        file.write_text("\n".join(line.format(s, h, 1 - h) for s, h in VALUES.items()))
    elif kind == "openrlhf":
        file.write_text("\n".join(json.dumps({**r, "global_step": r["step"], "note": "x"}) for r in ROWS))
    elif kind == "wandb":
        pd.DataFrame(ROWS).rename(columns={"step": "_step"}).assign(_runtime=1.0).to_csv(file, index=False)
    elif kind == "trackio":
        with closing(sqlite3.connect(file)) as base:
            base.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp, run_name, step, metrics TEXT)")
            add = "INSERT INTO metrics (run_name, step, metrics) VALUES (?, ?, ?)"
            base.executemany(add, [("r1", r["step"], json.dumps(r)) for r in ROWS])
            base.commit()
    return file


@pytest.mark.parametrize("kind", ["state", "verl", "console", "openrlhf", "wandb", "trackio"])
def test_every_writer_gives_the_same_series(tmp_path: Path, kind: str) -> None:
    log = RunLog.read(write(tmp_path, kind))
    assert log.series("entropy").to_dict() == VALUES
    assert log.series("reward").to_dict() == {s: 1 - h for s, h in VALUES.items()}
    assert log.steps == [1, 2, 300]


def test_tensorboard_events_and_download(tmp_path: Path) -> None:
    log = RunLog.read(EVENTS)
    assert log.series("entropy").round(6).to_dict() == {1: 0.5, 2: 0.25, 300: 0.001667}
    assert log.series("loss").to_dict() == {300: 0.25}
    file = tmp_path / "run-ppo-tag-entropy.csv"
    pd.DataFrame({"Wall time": [1.0, 2.0], "Step": [1, 2], "Value": [0.5, 0.25]}).to_csv(file, index=False)
    assert RunLog.read(file).series("entropy").to_dict() == {1: 0.5, 2: 0.25}
    cut = tmp_path / EVENTS.name
    cut.write_bytes(EVENTS.read_bytes()[:-5])
    with pytest.raises(InputError, match="truncated"):
        RunLog.read(cut)


def test_order_of_lines_changes_nothing() -> None:
    assert RunLog.of(ROWS).fingerprint() == RunLog.of(ROWS[::-1]).fingerprint()
    assert RunLog.of(ROWS).fingerprint() != RunLog.of([{**ROWS[0], "entropy": 0.4}, *ROWS[1:]]).fingerprint()


def test_evaluation_lines_join_their_step(tmp_path: Path) -> None:
    log = RunLog.read(write(tmp_path, "state"))
    assert log.series("eval_loss").to_dict() == {2: 1.5}
    assert "train_loss" not in log.names


def test_a_folder_is_searched(tmp_path: Path) -> None:
    inner = tmp_path / "checkpoint-300"
    inner.mkdir()
    write(inner, "state")
    assert RunLog.read(tmp_path).steps == [1, 2, 300]
    with pytest.raises(InputError, match=r"looked for trainer_state.json"):
        RunLog.read(_empty(tmp_path))


def _empty(folder: Path) -> Path:
    made = folder / "empty"
    made.mkdir()
    return made


def test_bad_logs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 2 has no step"):
        RunLog.of([ROWS[0], {"entropy": 1.0}])
    with pytest.raises(InputError, match="whole number"):
        RunLog.of([{"step": 1.5, "entropy": 1.0}])
    with pytest.raises(InputError, match="no scalar 'reward'; it has entropy"):
        RunLog.of([{"step": 1, "entropy": 1.0}]).series("reward")
    file = tmp_path / "x.jsonl"
    file.write_text('{"a": 1}')
    with pytest.raises(InputError, match="no step column"):
        RunLog.read(file)
    file.write_text("[1, 2]")
    with pytest.raises(InputError, match="line 1: expected a JSON object"):
        RunLog.read(file)
    file.write_text('{"step": 1, "a')
    with pytest.raises(InputError, match="line 1: malformed"):
        RunLog.read(file)
    database = write(tmp_path, "trackio")
    with closing(sqlite3.connect(database)) as base:
        base.execute("INSERT INTO metrics (run_name, step, metrics) VALUES ('r2', 1, '{}')")
        base.commit()
    with pytest.raises(InputError, match=r"holds runs \['r1', 'r2'\]"):
        RunLog.read(database)
    assert RunLog.read(database, run="r1").steps == [1, 2, 300]
