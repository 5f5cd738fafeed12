"""Ctrl-C: heard between batches, never lost, at once when it is pressed again."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from analyses.core.progress import doing, heard, interruptible, progress
from tests.processes import started


@pytest.fixture(autouse=True)
def _as_at_the_start() -> Iterator[None]:
    """Python's own handler, which a test runner may have replaced."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Node:
    pass


def stopped(work: Callable[[], None]) -> KeyboardInterrupt | None:
    """What gets out of `work` where Ctrl-C stops it."""
    try:
        interruptible()(work)()
    except KeyboardInterrupt as error:
        return error
    return None


def press_where_exceptions_are_lost() -> None:
    """Python prints an exception in the callback of a weak reference, and goes on."""
    node = Node()
    kept = weakref.ref(node, lambda _: press())
    del node
    assert kept() is None


def test_a_press_stops_before_the_next_batch_and_the_one_under_way_is_finished() -> None:
    begun, done = [], []

    def work() -> None:
        for number in progress(range(5), "batches"):
            begun.append(number)
            if number == 2:
                press()
            done.append(number)

    assert stopped(work)
    assert begun == done == [0, 1, 2]


def test_a_press_inside_the_callback_of_a_weak_reference_is_heard(capfd: pytest.CaptureFixture[str]) -> None:
    seen = []

    def work() -> None:
        for number in progress(range(5), "batches"):
            seen.append(number)
            press_where_exceptions_are_lost()

    assert stopped(work)
    assert seen == [0]
    assert "stopping after this batch" in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_press_that_is_lost_is_heard_at_the_next_batch() -> None:
    seen = []

    def work() -> None:
        for number in progress(range(5), "batches"):
            press()
            press_where_exceptions_are_lost()
            seen.append(number)

    assert stopped(work)
    assert seen == [0]


def test_a_second_press_stops_inside_the_batch() -> None:
    reached = []

    def work() -> None:
        press()
        reached.append("after the first")
        press()
        reached.append("after the second")

    assert stopped(work)
    assert reached == ["after the first"]


def test_the_first_press_stops_while_a_model_loads() -> None:
    reached = []

    def work() -> None:
        with doing("loading checkpoint-60"):
            press()
            reached.append("the model")

    assert stopped(work)
    assert not reached


def test_a_press_nobody_heard_is_raised_at_the_end() -> None:
    done = []
    assert stopped(lambda: done.append(press()))
    assert done == [None], "the last batch is finished"
    heard()  # and it is used up


def test_a_press_before_an_error_ends_a_script_that_goes_on_after_errors() -> None:
    def work() -> None:
        press()
        raise ValueError("no such file")

    found = stopped(work)
    assert found is not None
    assert isinstance(found.__context__, ValueError)


def test_a_run_inside_a_sweep_leaves_the_press_to_the_sweep() -> None:
    reached = []

    def sweep() -> None:
        interruptible()(press)()
        reached.append("the run is kept")
        heard()
        reached.append("the next member")

    assert stopped(sweep)
    assert reached == ["the run is kept"]


def test_the_handler_of_a_program_around_us_is_left_alone() -> None:
    presses: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: presses.append(number))
    with interruptible():
        press()
        heard()
    assert presses == [signal.SIGINT]


def test_afterwards_ctrl_c_is_pythons_again_also_after_an_error() -> None:
    with pytest.raises(ValueError, match="no"), interruptible():
        raise ValueError("no")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()


def test_in_a_thread_nothing_is_changed() -> None:
    seen: list[object] = []

    def work() -> None:
        with interruptible():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]


ENDLESS = """
import sys, time
from analyses.core.progress import interruptible
with interruptible():
    print("begun", flush=True)
    time.sleep(600)
"""


def test_a_batch_that_takes_minutes_ends_with_the_second_press() -> None:
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started([sys.executable, "-c", ENDLESS], **pipes, **heeding) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        told = process.stderr.readline() + process.stderr.readline()
        assert told.strip() == "stopping after this batch; press Ctrl-C again to stop at once"
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait() == -signal.SIGINT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_there_at_once_and_says_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROBE_PROGRESS", raising=False)
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    batch = SimpleNamespace(ids=torch.zeros(4, 25))
    for number in progress(range(3), "of 3", said=lambda n: f"{n + 1} of 3 checkpoints, perplexity"):
        assert "of 3" in shown.getvalue(), "before the first one is done"
        with doing("loading checkpoint-60"):
            assert "loading checkpoint-60" in shown.getvalue()
        assert f"{number + 1} of 3 checkpoints, perplexity" in shown.getvalue()
        for _ in progress([batch, batch], "batches"):
            time.sleep(0.12)
    assert "tokens/s" in shown.getvalue() and " GB" in shown.getvalue()
