"""Checkpoints: the identity of saved weights, and series of them found in folders or on the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from probe.checkpoints.files import cache_folder, digest, file_hash, pickle_files, weight_files
from probe.errors import InputError

__all__ = ["Checkpoint", "cache_folder", "discover", "pickle_files", "prefetch", "weight_files"]

# checkpoint-N (transformers, TRL), global_step_N (verl), step_N (open-instruct), global_stepN_hf (OpenRLHF),
# step1000 and stage1-step150-tokens2B (Hub revisions of Pythia and OLMo).
_STEP = re.compile(r"(?:^|[-_.])(?:checkpoint|global_step|step|iter)[-_]?(\d+)(?:_hf|-tokens\w+)?$")

# Where a trainer puts the exported model inside the folder of a step.
_INNER = ("", "actor/huggingface", "huggingface", "actor", "policy", "hf")

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Checkpoint:
    """Saved weights: a folder or a Hub repository, its revision, and where it lies in training.

    `step` counts optimizer steps; `stage` names the run or phase (`sft`, `rl`); `adapter` is a folder
    with a PEFT adapter that is merged into the weights of `path`.
    """

    path: str
    revision: str | None = None
    step: int | None = None
    stage: str | None = None
    adapter: str | None = None

    @classmethod
    def of(cls, value: Checkpoint | str | Path) -> Checkpoint:
        """The checkpoint a path names (`repo@revision` on the Hub; an adapter's folder), with its step."""
        if isinstance(value, Checkpoint):
            return value
        text = str(value)
        folder = Path(text)
        if not folder.exists() and "@" in text:
            path, _, revision = text.rpartition("@")
            return cls(path, revision=revision, step=_step_of(revision))
        if _is_adapter(folder):
            return cls(_base_of(folder), step=_step_of_folder(folder), adapter=text)
        return cls(text, step=_step_of_folder(folder))

    @property
    def label(self) -> str:
        """A short name for people: `checkpoint-60`, `repo@step1000`."""
        folder = Path(self.adapter or self.path)
        # Inside a step's folder the name that tells steps apart is the step's.
        named = next((p.name for p in (folder, *folder.parents) if _step_of(p.name) is not None), folder.name)
        return f"{folder.name}@{self.revision}" if self.revision else named

    @property
    def folder(self) -> Path:
        """The folder the weights lie in; a Hub repository is looked up (and fetched) first."""
        if self.revision is None and Path(self.path).is_dir():
            return Path(self.path)
        if self.revision is None and not _is_repo(self.path):
            raise InputError(f"no model folder at {self.path}")
        from probe.checkpoints.hub import snapshot

        return snapshot(self.path, self.revision)

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies: with the adapter if it brought one, else with the weights."""
        own = Path(self.adapter) if self.adapter else None
        return own if own is not None and (own / "tokenizer_config.json").is_file() else self.folder

    def fingerprint(self) -> str:
        """Hex hash of weights and configuration (and adapter); bytes are read once per file version."""
        parts: list[str] = []
        for folder in (self.folder, *([Path(self.adapter)] if self.adapter else [])):
            files = {*weight_files(folder), *folder.glob("*config.json")}
            kept = sorted(f for f in files if f.name != "tokenizer_config.json")
            parts += [f"{f.name}:{file_hash(f)}" for f in kept]
        return digest(parts)

    def tokenizer_fingerprint(self) -> str:
        """Hex hash of the tokenizer's files, chat template included."""
        files = [self.tokenizer_folder / name for name in _TOKENIZER_FILES]
        return digest([f"{f.name}:{file_hash(f)}" for f in files if f.is_file()])


def prefetch(checkpoint: Checkpoint | str | Path) -> Future[None]:
    """Done when a checkpoint's bytes are at hand, which happens in the background.

    Call it with the next checkpoint of a series while the current one computes: a repository is
    fetched, and the files are read into the page cache. The model is not built here: building one
    changes torch's default dtype under the feet of the running one. What is wrong with the checkpoint
    is for the load to say.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="probe-prefetch")
    future = pool.submit(_read_through, Checkpoint.of(checkpoint))
    pool.shutdown(wait=False)
    return future


def _read_through(checkpoint: Checkpoint) -> None:
    for folder in (checkpoint.folder, *([Path(checkpoint.adapter)] if checkpoint.adapter else [])):
        for file in folder.glob("*.safetensors"):
            with file.open("rb") as handle:
                while handle.read(1 << 22):
                    pass


def discover(
    source: str | Path | Checkpoint | Sequence[str | Path | Checkpoint], *, pattern: str | None = None
) -> list[Checkpoint]:
    """The checkpoints of a series, sorted by stage and step.

    Args:
        source: a trainer's folder (`checkpoint-N` of transformers and TRL, `global_step_N/actor/huggingface`
            of verl, `step_N` of open-instruct, `global_stepN_hf` of OpenRLHF), one model or adapter folder, a
            folder of model folders, a Hub repository with a revision or a glob of them (`repo@step1000`,
            `repo@step*`), or a list of any of these.
        pattern: keep only folders whose name matches this glob.

    Raises:
        InputError: nothing found (with what was looked for), or one step twice in a stage.
    """
    sources = [source] if isinstance(source, (str, Path, Checkpoint)) else list(source)
    found = [c for one in sources for c in _discover(one, pattern)]
    if not found:
        raise InputError("no checkpoints: the list is empty")
    if all(c.step is None for c in found):
        return found
    _refuse_one_step_twice(found)
    return sorted(found, key=lambda c: (c.stage or "", -1 if c.step is None else c.step))


def _refuse_one_step_twice(found: Sequence[Checkpoint]) -> None:
    seen: dict[tuple[str | None, int], Checkpoint] = {}
    for c in found:
        if c.step is None:
            continue
        other = seen.setdefault((c.stage, c.step), c)
        if other is not c:
            raise InputError(
                f"step {c.step} twice in one series: {other.adapter or other.path} and {c.adapter or c.path}"
            )


def _discover(source: str | Path | Checkpoint, pattern: str | None) -> list[Checkpoint]:
    if isinstance(source, Checkpoint):
        return [source]
    folder = Path(source)
    if not folder.exists() and _is_repo(str(source)):
        return _on_hub(str(source))
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}; expected a model folder or a folder of checkpoints")
    if _is_model(folder) or _is_adapter(folder):
        return [Checkpoint.of(folder)]
    found = list(_inside(folder, pattern))
    if not found:
        names = sorted(f.name for f in folder.iterdir() if f.is_dir())
        raise InputError(
            f"no checkpoints in {folder}: looked in each of its folders ({', '.join(names[:8]) or 'none'}) for "
            f"config.json or adapter_config.json, there or in {', '.join(i for i in _INNER if i)}; e.g. checkpoint-100/"
        )
    return found


def _inside(folder: Path, pattern: str | None) -> Iterator[Checkpoint]:
    for child in sorted(f for f in folder.glob(pattern or "*") if f.is_dir()):
        inner = next((child / i for i in _INNER if _is_model(child / i) or _is_adapter(child / i)), None)
        if inner is not None:
            found = Checkpoint.of(inner)
            step = found.step if found.step is not None else _step_of_folder(child)
            yield replace(found, step=step, stage=folder.name)


def _on_hub(text: str) -> list[Checkpoint]:
    repo, _, revision = text.partition("@")
    if not any(c in revision for c in "*?["):
        return [Checkpoint.of(text)]
    from probe.checkpoints.hub import revisions

    names = revisions(repo)
    matching = [n for n in names if fnmatchcase(n, revision)]
    if not matching:
        raise InputError(f"{repo}: no revision matches {revision!r}; it has {', '.join(names[:8])}")
    return [replace(Checkpoint.of(f"{repo}@{n}"), stage=repo.rpartition("/")[2]) for n in matching]


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not _is_model(folder)


def _is_repo(text: str) -> bool:
    name = text.partition("@")[0]
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _base_of(adapter: Path) -> str:
    config = json.loads((adapter / "adapter_config.json").read_text())
    base = config.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{adapter}: its adapter_config.json names no base model; use Checkpoint(base, adapter=...)")
    return str(base)


def _step_of(name: str) -> int | None:
    match = _STEP.search(name)
    return int(match.group(1)) if match else None


def _step_of_folder(folder: Path) -> int | None:
    step = _step_of(folder.name)
    state = folder / "trainer_state.json"
    if step is not None or not state.is_file():
        return step
    value = json.loads(state.read_text()).get("global_step")
    return int(value) if isinstance(value, int) else None
