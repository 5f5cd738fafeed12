"""Stages on disk: complete or absent, and never mixed with those of another recipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from probe.errors import InputError

MARKER = "stage.json"


def is_complete(folder: Path, fingerprint: str) -> bool:
    """True if the stage was finished with this very recipe; another recipe's stage is an error, not a restart."""
    marker = folder / MARKER
    if not marker.exists():
        if folder.exists():
            raise InputError(
                f"{folder} exists but holds no {MARKER}, so it is no stage of the lab: move it or choose another --out"
            )
        return False
    found = json.loads(marker.read_text())["fingerprint"]
    if found != fingerprint:
        raise InputError(
            f"{folder} was made with another recipe (fingerprint {found}, now {fingerprint}). Checkpoints of two "
            "recipes are never mixed: choose another --out, or delete that folder and those built on it"
        )
    return True


def run_stage(folder: Path, fingerprint: str, build: Callable[[Path], dict[str, Any]]) -> Path:
    """Build a stage in a scratch folder and rename it when whole: a kill at any moment leaves nothing half made.

    Args:
        folder: where the finished stage lies.
        fingerprint: of everything the stage depends on, earlier stages included.
        build: writes into the scratch folder it is given and returns facts for the marker.
    """
    if is_complete(folder, fingerprint):
        return folder
    # The process id keeps two builders apart; leftovers of dead ones are swept first.
    for leftover in folder.parent.glob(f".{folder.name}.partial-*"):
        if not _is_alive(int(leftover.name.rsplit("-", 1)[1])):
            shutil.rmtree(leftover, ignore_errors=True)
    scratch = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    scratch.mkdir(parents=True)
    try:
        facts = build(scratch)
        (scratch / MARKER).write_text(json.dumps({"fingerprint": fingerprint, **facts}, indent=2) + "\n")
        _publish(scratch, folder, fingerprint)
    finally:
        # After the rename nothing is left here; after Ctrl-C or an error, half a stage.
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _publish(scratch: Path, folder: Path, fingerprint: str) -> None:
    try:
        os.rename(scratch, folder)
    except OSError:
        # Another process finished the same stage first: theirs stands, if it is the same recipe's.
        if not is_complete(folder, fingerprint):
            raise


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old or the new one, never a part."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    os.replace(scratch, path)
