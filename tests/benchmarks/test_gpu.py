"""The script of `make gpu`, at a tiny shape on the pretended device, and where there is no device."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import _gpu
from tests.accelerator import DEVICE, accelerator

TINY = _gpu.Shape(
    layers=2, width=32, heads=4, kv_heads=2, inner=48, vocab=120, items=2, length=16, new_tokens=3, repeats=1
)


def test_every_timing_is_taken_at_a_tiny_shape() -> None:
    with accelerator():
        rows = list(_gpu.measured(DEVICE, TINY))
    assert len(rows) == 5 and all(row["seconds"] > 0 for row in rows)
    text = _gpu.page(rows, "Tests marked `gpu`: 3 passed.", "a machine")
    assert text.count("\n| ") == 6 and "3 passed" in text


def test_without_a_device_the_page_says_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROBE_TEST_DEVICE", "cuda:99")
    monkeypatch.setattr(_gpu, "PAGE", tmp_path / "GPU.md")
    assert _gpu.main() == 1
    assert "Not run: device='cuda:99'" in (tmp_path / "GPU.md").read_text()


def test_as_many_blocks_as_fit() -> None:
    whole = _gpu.Shape()
    assert whole.fitting(80 * 2**30).layers == 28
    assert 4 < whole.fitting(16 * 2**30).layers < 28
    assert whole.block_bytes() * 28 == pytest.approx(13.1e9, rel=0.02)
