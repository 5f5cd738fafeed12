"""Checkpoints: the identity of saved weights and of all that is loaded with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from probe.checkpoints.files import digest, file_hash, read_json, weight_files
from probe.checkpoints.formats import unreadable
from probe.checkpoints.hub import snapshot
from probe.checkpoints.layouts import inside, kind_of, step_of_folder
from probe.checkpoints.names import step_of
from probe.checkpoints.shards import Shards, shards_in
from probe.errors import InputError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "chat_template*",
    "additional_chat_templates/*",
)


@dataclass(frozen=True)
class Checkpoint:
    """Saved weights: a folder or a Hub repository, its revision, and where it lies in training.

    `step` counts optimizer steps; `stage` names the run or phase (`sft`, `rl`); `adapter` is a folder with a PEFT
    adapter that is merged into the weights of `path`; `config` is a folder with configuration and tokenizer, where
    none lies beside the weights (sharded checkpoints).
    """

    path: str
    revision: str | None = None
    step: int | None = None
    stage: str | None = None
    adapter: str | None = None
    config: str | None = None

    @classmethod
    def of(
        cls, value: Checkpoint | str | Path, *, base: str | Path | None = None, config: str | Path | None = None
    ) -> Checkpoint:
        """The checkpoint a text names, with its step.

        Args:
            value: a folder (also a step's folder with the model inside), an adapter's folder, `BASE+ADAPTER`, a Hub
                repository or `repo@revision`.
            base: the model an adapter belongs to, where that is not the one its configuration names.
            config: a folder with config.json and tokenizer, for shards that have none beside them.
        """
        if isinstance(value, Checkpoint):
            return value
        text = str(value)
        refuse_address(text)
        folder = Path(text)
        if not folder.exists() and "+" in text:
            first, _, adapter = text.rpartition("+")
            if kind_of(Path(adapter)) == "adapter":
                return replace(cls.of(first), adapter=adapter, step=step_of_folder(Path(adapter)))
        if not folder.exists() and "@" in text:
            path, _, revision = text.rpartition("@")
            return cls(path, revision=revision, step=step_of(revision))
        return cls._of_folder(folder, base, config)

    @classmethod
    def _of_folder(cls, folder: Path, base: str | Path | None, config: str | Path | None) -> Checkpoint:
        place, kind = inside(folder) or (folder, None)
        step = next((s for s in map(step_of_folder, (place, folder)) if s is not None), None)
        if kind == "adapter":
            under = cls.of(base) if base is not None else _under(place)
            return replace(under, step=step, adapter=str(place))
        return cls(str(place), step=step, config=str(config) if config is not None and kind == "shards" else None)

    @property
    def label(self) -> str:
        """A short name for people: `checkpoint-60`, `repo@step1000`."""
        folder = Path(self.adapter or self.path)
        # Inside a step's folder the name that tells steps apart is the step's.
        named = next((p.name for p in (folder, *folder.parents) if step_of(p.name) is not None), folder.name)
        return f"{folder.name}@{self.revision}" if self.revision and not self.adapter else named

    @property
    def folder(self) -> Path:
        """The folder the weights lie in; a Hub repository is looked up (and fetched) first."""
        own = Path(self.path)
        if self.adapter == self.path:
            _base_of(own)  # says what is wrong with it
        if self.revision is None and own.exists() and kind_of(own) == "unreadable":
            raise InputError(str(unreadable(own)))
        if self.revision is None and own.is_dir():
            return own
        if self.revision is None and not is_repo(self.path):
            raise InputError(self._absent())
        return snapshot(self.path, self.revision)

    def _absent(self) -> str:
        if self.adapter is None:
            return f"no model folder at {self.path}"
        return (
            f"{self.adapter}: the base model of this adapter is not at {self.path} (moved since training?); name it "
            f"with --base FOLDER, or write BASE+{self.adapter}"
        )

    @property
    def shards(self) -> Shards | None:
        """The trainer's shards, where the folder holds no whole model."""
        return shards_in(self.folder) if kind_of(self.folder) == "shards" else None

    @property
    def config_folder(self) -> Path:
        """Where config.json lies: with the weights, or where trainers put it beside their shards.

        Raises:
            InputError: shards without a configuration anywhere (how to give one).
        """
        if self.config is not None:
            given = Path(self.config)
            if not (given / "config.json").is_file():
                raise InputError(
                    f"config={self.config}: no config.json there; give the model that training started from"
                )
            return given
        folder, shards = self.folder, self.shards
        if shards is None:
            return folder
        beside = (folder, folder / "huggingface", shards.folder, folder.parent)
        found = next((f for f in beside if (f / "config.json").is_file()), None)
        if found is None:
            raise InputError(
                f"{folder}: shards without a config.json beside them; name the model that training started from with "
                "--config FOLDER (its config.json and tokenizer are used, not its weights)"
            )
        return found

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies: with the adapter or the shards if they brought one, else with the configuration."""
        own = Path(self.adapter) if self.adapter else self.folder
        has_own = any((own / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))
        return own if has_own else self.config_folder

    def fingerprint(self) -> str:
        """Hex hash of the weights and configuration (and adapter) as they would be loaded."""
        parts = [f"{f.name}:{file_hash(f)}" for f in _with_config(self.weight_files, self.config_folder)]
        if self.adapter:
            adapter = Path(self.adapter)
            parts += [f"{f.name}:{file_hash(f)}" for f in _with_config(weight_files(adapter), adapter)]
        return digest(parts)

    @property
    def weight_files(self) -> list[Path]:
        """The files the weights are read from (an adapter's not counted).

        Raises:
            InputError: none, one missing or cut short, or a format that is not read.
        """
        shards = self.shards
        return weight_files(self.folder) if shards is None else shards.files

    def tokenizer_fingerprint(self) -> str:
        """Hex hash of the tokenizer's files, chat templates included."""
        folder = self.tokenizer_folder
        files = sorted({f for name in _TOKENIZER_FILES for f in folder.glob(name) if f.is_file()})
        return digest([f"{f.name}:{file_hash(f)}" for f in files])


def _with_config(weights: Sequence[Path], folder: Path) -> list[Path]:
    """Weight files, configuration, and code that may be loaded with them, by name."""
    files = {*weights, *folder.glob("*config.json"), *folder.glob("*.py")}
    return sorted((f for f in files if f.name != "tokenizer_config.json"), key=lambda f: (f.name, str(f)))


def refuse_address(text: str) -> None:
    """Raise for an address of a remote store, spelt as it was given (`Path` swallows a slash)."""
    scheme, colon, rest = text.partition(":/")
    if colon and scheme.isalnum() and len(scheme) > 1:
        address = f"{scheme}://{rest.lstrip('/')}"
        raise InputError(
            f"{address}: checkpoints are read from this machine's disks and from the Hub; copy it first "
            f"(e.g. {'aws s3 cp --recursive' if scheme == 's3' else 'copy'} {address} FOLDER) or mount it"
        )


def is_repo(text: str) -> bool:
    """True if a text has the form of a Hub repository, with or without a revision."""
    name = text.partition("@")[0]
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def _under(adapter: Path) -> Checkpoint:
    """The base of an adapter; where its configuration cannot be read, itself, for the load to refuse."""
    try:
        return _base_of(adapter)
    except InputError:
        return Checkpoint(str(adapter))


def _base_of(adapter: Path) -> Checkpoint:
    config = read_json(adapter / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(
            f"{adapter}: its adapter_config.json names no base model; name it with --base FOLDER, or write "
            f"BASE+{adapter}"
        )
    if not Path(base).exists() and is_repo(str(base)):
        return Checkpoint(str(base), revision=config.get("revision") or None)
    return Checkpoint(str(base))


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
    for file in _weights(checkpoint):
        with file.open("rb") as handle:
            while handle.read(1 << 22):
                pass


def _weights(checkpoint: Checkpoint) -> Iterator[Path]:
    shards = checkpoint.shards
    yield from checkpoint.folder.glob("*.safetensors") if shards is None else shards.files
    if checkpoint.adapter:
        yield from Path(checkpoint.adapter).glob("*.safetensors")
