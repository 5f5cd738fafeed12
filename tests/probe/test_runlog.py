"""Run logs: every writer's form gives the same scalars, and bad ones are refused by name."""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
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


# One real run (TRL's GRPOTrainer, six updates, completions logged), as each of four trackers kept it

RUN = Path(__file__).parent / "data" / "grpo-run"
TRACKERS = ("trainer_state.json", "run-tiny.wandb", "trackio.db", "events.out.tfevents.1795885409.host.1.0")


@pytest.mark.parametrize("name", TRACKERS)
def test_four_trackers_of_one_run_agree_in_steps_and_values(name: str) -> None:
    log, state = RunLog.read(RUN / name), RunLog.read(RUN / "trainer_state.json")
    assert log.steps == state.steps == [1, 2, 3, 4, 5, 6]
    assert len(log.names) == len(state.names)
    for scalar in state.names:
        mine, theirs = log.series(scalar), state.series(scalar)
        assert mine.index.tolist() == theirs.index.tolist(), scalar
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, err_msg=scalar)  # TensorBoard keeps float32


def test_the_log_says_where_its_steps_are_from() -> None:
    assert RunLog.read(RUN / "run-tiny.wandb").step_from == "train/global_step"
    assert "counts something else" in RunLog.read(RUN / "trackio.db").notes[0]
    assert RunLog.read(RUN / "trainer_state.json").notes == ()


def test_updates_are_counted_not_calls_of_log(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_text("_step,train/global_step,train/entropy\n28,3,.7\n8,1,.9\n18,2,.8\n")
    log = RunLog.read(file)  # an export may be sorted by any column
    assert log.series("entropy").to_dict() == {1: 0.9, 2: 0.8, 3: 0.7}
    # OpenRLHF: evaluation rows carry a counter of their own; a row with neither is left out and told of.
    rows = [
        {"_step": 1, "train/global_step": 4, "train/loss": 1.0},
        {"_step": 2, "eval/global_step": 4, "eval/acc": 0.5},
    ]
    log = RunLog.of([*rows, {"_step": 3, "mine": 7.0}])
    assert log.frame.loc[4].to_dict() == {"train/loss": 1.0, "eval/acc": 0.5}
    assert any("1 value(s) without train/global_step" in n and "mine" in n for n in log.notes)
    # Where the writer's step is the trainer's wherever both stand, it serves for the rest.
    both = RunLog.of([{"step": 1, "global_step": 1, "a": 1.0}, {"step": 2, "b": 2.0}])
    assert both.steps == [1, 2]


def event_file(file: Path, values: dict[int, float], tag: str = "loss") -> None:
    def record(step: int, value: float) -> bytes:
        name = tag.encode()
        inner = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", value)
        summary = b"\x0a" + bytes([len(inner)]) + inner
        number = b""
        step &= (1 << 64) - 1
        while step > 127:
            number, step = number + bytes([step & 127 | 128]), step >> 7
        data = b"\x10" + number + bytes([step]) + b"\x2a" + bytes([len(summary)]) + summary
        return struct.pack("<Q", len(data)) + b"\0" * 4 + data + b"\0" * 4

    file.write_bytes(b"".join(record(s, v) for s, v in values.items()))


def test_all_event_files_of_a_folder_are_read_in_the_order_they_were_begun(tmp_path: Path) -> None:
    event_file(tmp_path / "events.out.tfevents.1700.h.0", {3: 3.5, 4: 4.0})
    event_file(tmp_path / "events.out.tfevents.999.h.0", {1: 1.0, 2: 2.0, 3: 3.0})
    event_file(tmp_path / "events.out.tfevents.1701.h.1", {4: 9.0}, tag="eval/loss")
    log = RunLog.read(tmp_path)
    assert log.series("loss").to_dict() == {1: 1.0, 2: 2.0, 3: 3.5, 4: 4.0}
    assert log.series("eval_loss").to_dict() == {4: 9.0}


def test_run_folders_below_a_folder(tmp_path: Path) -> None:
    for name in ("Nov28_host", "Nov29_host"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    event_file(tmp_path / "runs" / "Nov28_host" / "events.out.tfevents.1.h.0", {1: 1.0})
    assert RunLog.read(tmp_path / "runs").steps == RunLog.read(tmp_path).steps == [1]
    event_file(tmp_path / "runs" / "Nov29_host" / "events.out.tfevents.2.h.0", {7: 1.0})
    with pytest.raises(InputError, match=r"in 2 folders \(Nov28_host, Nov29_host\); say which"):
        RunLog.read(tmp_path)
    assert RunLog.read(tmp_path, run="Nov29_host").steps == [7]


def test_the_abandoned_branch_of_a_resumed_run_is_cut(tmp_path: Path) -> None:
    steps = [10, 20, 30, 40, 25, 35]
    log = RunLog.of([{"step": s, "loss": float(n)} for n, s in enumerate(steps)])
    assert log.series("loss").to_dict() == {10: 0, 20: 1, 25: 4, 35: 5}
    assert "went back to step 25" in log.notes[0]
    assert "30 to 40" in log.notes[0]
    # Other scalars of the old branch go too; a late evaluation takes nothing back.
    rows = [(10, {"loss": 1.0}), (20, {"loss": 2.0, "acc": 0.5}), (30, {"loss": 3.0, "acc": 0.9}), (15, {"loss": 4.0})]
    assert RunLog.of(rows).names == ["loss"]
    late = [(10, {"loss": 1.0}), (20, {"loss": 2.0}), (10, {"eval": 0.5}), (30, {"loss": 3.0}), (20, {"eval": 0.6})]
    assert RunLog.of(late).steps == [10, 20, 30]
    assert RunLog.of(late).notes == ()
    event_file(tmp_path / "events.out.tfevents.1.h.0", {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0})
    event_file(tmp_path / "events.out.tfevents.2.h.0", {3: 30.0})
    assert RunLog.read(tmp_path).series("loss").to_dict() == {1: 1.0, 2: 2.0, 3: 30.0}


def test_a_file_in_no_order_is_read_whole_and_says_so() -> None:
    steps = [5, 1, 4, 2, 6, 3, 8, 7]
    log = RunLog.of([{"step": s, "loss": float(s)} for s in steps])
    assert log.series("loss").to_dict() == {s: float(s) for s in sorted(steps)}
    assert "in no order" in log.notes[0]
    stamped = RunLog.of([{"step": s, "_timestamp": s, "loss": 1.0} for s in steps])
    assert stamped.notes == ()


def test_checkpoints_that_tell_different_histories_are_refused(tmp_path: Path) -> None:
    for step, loss in ((20, 1.0), (40, 2.0)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        history = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": loss}, {"step": step, "eval_loss": loss}]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    with pytest.raises(InputError, match=r"checkpoint-20 and checkpoint-40 tell different histories \(loss at step 20"):
        RunLog.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('step,a\n1,"1,234.5"\n2,2\n', {1: 1234.5, 2: 2.0}),
        ('step,a\n"1,000",1\n', {1000: 1.0}),
        ("\ufeffstep,a\n1,NaN\n2,0.5\n\n", {2: 0.5}),
        ("step;a\n1;0,5\n2;1,25\n", {1: 0.5, 2: 1.25}),
        ("step\ta\n1\t2e-3\n", {1: 0.002}),
        ("step,a\r\n1,2\r\n", {1: 2.0}),
        ("step,a,note\n1,2,3rd try\n", {1: 2.0}),
    ],
)
def test_numbers_as_people_write_them(tmp_path: Path, text: str, found: dict[int, float]) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text, newline="")
    assert RunLog.read(file).series("a").to_dict() == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('step,a\n1,0.5\n2,"0,5"\n', r"line 3: a is '0,5', which is almost a number"),
        ("step,a\nnan,1\n", "line 2 has no step"),
        ("step,a\ninf,1\n", "line 2 has step 'inf'; expected a whole number"),
        ("step,a\n-1,1\n", "line 2 has step '-1'"),
        ("step,a\n1.5,1\n", "line 2 has step '1.5'"),
        ("step,a\n1,2,3\n", "line 2: 3 fields under a header of 2"),
        ("step;a\n1;0,5\n2;0.5\n", "line 3: 0.5 beside numbers with decimal commas"),
    ],
)
def test_cells_that_cannot_be_read_faithfully_are_refused_with_their_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        RunLog.read(file)


def test_odd_steps_of_other_writers(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": Infinity, "a": 1}\n')
    with pytest.raises(InputError, match=r"line 1 has step inf"):
        RunLog.read(file)
    events = tmp_path / "events.out.tfevents.1"
    event_file(events, {-1: 1.0})
    with pytest.raises(InputError, match=r"loss has step -1"):
        RunLog.read(events)


def test_lines_of_jsonl_end_in_newlines_only(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    rows = [{"step": 1, "a": 1.0, "note": "one\u2028two\u0085three"}, {"step": 2, "a": 2.0}]
    lines = "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    file.write_text("\ufeff" + lines + "\n\n", encoding="utf-8")
    assert RunLog.read(file).steps == [1, 2]


def test_files_that_are_no_run_log_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "x.wandb").write_bytes(b"nothing")
    with pytest.raises(InputError, match="export the run's history as CSV"):
        RunLog.read(tmp_path / "x.wandb")
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(InputError, match="binary file"):
        RunLog.read(tmp_path / "x.bin")
    (tmp_path / "latin.txt").write_bytes("step:1 - a:1 é".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        RunLog.read(tmp_path / "latin.txt")
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (two / name).write_text('{"step": 1, "a": 1}')
    with pytest.raises(InputError, match=r"2 files that could be a run log \(a.jsonl, b.jsonl\)"):
        RunLog.read(two)


def test_a_chart_downloaded_from_wandb_says_that_its_steps_are_its_own(tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    names = ["train/entropy", "train/entropy__MIN", "train/entropy__MAX"]
    header = ",".join(f'"a - {n}"' for n in names)
    file.write_text(f'"Step",{header}\n8,.9,.9,.9\n18,.8,.8,.8\n')
    log = RunLog.read(file)
    assert log.names == ["train/entropy"]
    assert "counts calls of log" in log.notes[0]
    file.write_text(f'"train/global_step",{header}\n1,.9,.9,.9\n2,.8,.8,.8\n')
    assert (RunLog.read(file).steps, RunLog.read(file).notes) == ([1, 2], ())
    two = header + "," + ",".join(f'"b - {n}"' for n in names)
    file.write_text(f'"Step",{two}\n8,.9,.9,.9,.1,.1,.1\n')
    with pytest.raises(InputError, match=r"holds runs \['a', 'b'\]"):
        RunLog.read(file)
    assert RunLog.read(file, run="b").series("entropy").tolist() == [0.1]
    names = [
        f"{run} - {n}{end}" for run in ("a - 1e-4", "b") for n in ("_step", "loss") for end in ("", "__MIN", "__MAX")
    ]
    lines = ["8,8,8,8,.9,.9,.9,,,,,,", "9,,,,,,,9,9,9,.1,.1,.1"]
    file.write_text("\n".join([",".join(f'"{n}"' for n in ("Step", *names)), *lines]))
    assert RunLog.read(file, run="a - 1e-4").series("loss").to_dict() == {8: 0.9}
    assert RunLog.read(file, run="b").series("loss").to_dict() == {9: 0.1}
