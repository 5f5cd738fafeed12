"""What an analysis is given: values, their fingerprints, and the way from a path to the object.

An input is fingerprinted without loading a model, so that a stored result is found in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

import probe
from analyses.core.analysis import Input
from analyses.core.keys import digest
from analyses.core.progress import doing
from probe.checkpoints.streaming import STREAM
from probe.dtypes import dtype_named
from probe.errors import InputError
from probe.readers.answers import is_prompt_file
from probe.readers.response_logs import read_responses
from probe.readers.tables import file_rows

if TYPE_CHECKING:
    from probe import Checkpoint, Rollouts


@dataclass(frozen=True)
class Given:
    """One input on its way into an analysis.

    Attributes:
        fingerprint: content hash; equal content gives equal results.
        describe: what the record keeps (path, step, counts).
        load: makes the object; a model is read only when this is called.
    """

    fingerprint: str
    describe: Mapping[str, Any]
    load: Callable[[], Any] = field(compare=False)


@dataclass(frozen=True)
class Loading:
    """How models are loaded: part of every key, since dtype and kernel change the last digits.

    `base_model`: what adapters are merged into (and step 0 of a sweep), where their own configuration names another
    place; `config_folder`: configuration and tokenizer for shards that have none beside them. Both are in the
    fingerprints of what they are used for. `generate_with`: a server of the checkpoint (`probe.served`).
    """

    backend: str = "transformer_lens"
    dtype: str = "float32"
    device: str = "cpu"
    revision: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False
    hold: Literal["both", "one"] = "both"
    bos: bool | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    base_model: str | None = None
    config_folder: str | None = None
    generate_with: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", dtype_named(self.dtype))  # one key, however it is spelt

    def identity(self) -> dict[str, str]:
        """What can change a number."""
        placed = self.placement.get("device_map", self.device.partition(":")[0])
        placed = "cpu" if placed == STREAM else placed  # the same numbers
        framing = {"bos": self.bos, "template_options": dict(self.template_options) or None}
        framing |= {"generate_with": self.generate_with}
        said = {name: json.dumps(value, sort_keys=True) for name, value in framing.items() if value is not None}
        return {"backend": self.backend, "dtype": self.dtype, "device": str(placed), **said}

    def options(self) -> dict[str, Any]:
        """What `Model.load` takes."""
        own = ("revision", "hold", "device", "base_model", "config_folder", "generate_with")
        return {**{k: v for k, v in asdict(self).items() if k not in own}, **self.placement}

    @property
    def placement(self) -> dict[str, object]:
        """Where `Model.load` puts the weights: a device, or a device map (`auto`, or JSON of modules to devices)."""
        if self.device in ("auto", STREAM):
            return {"device_map": self.device}
        if not self.device.startswith("{"):
            return {"device": self.device}
        try:
            return {"device_map": json.loads(self.device)}
        except json.JSONDecodeError as error:
            raise InputError(f"device {self.device!r} is neither a device, 'auto' nor a JSON map: {error}") from error


class ModelPool:
    """Loaded models of one run: each checkpoint is read once for all that asks for it in a row.

    There are two places, that of a pair's `base` and that of every other model. The weights of the next checkpoint
    are swapped into the handle of its place; one that either place holds is not read again. `loads` lists what was.
    """

    def __init__(self, loading: Loading) -> None:
        self.loading = loading
        self.loads: list[Checkpoint] = []
        self._handles: dict[str, Any] = {}
        self._seat: Any = None

    def get(self, slot: str, checkpoint: Checkpoint) -> Any:
        """A handle holding ``checkpoint``, for the input called ``slot``; an analysis asks for its base first."""
        options = self.loading.options()
        if self.loading.hold == "one":
            return self._turn(checkpoint, options)
        place, other = ("base", "tuned") if slot == "base" else ("tuned", "base")
        held = {name: handle for name, handle in self._handles.items() if handle.checkpoint == checkpoint}
        if place not in held and other in held and place == "base":
            # What was the tuned one becomes the base: the next tuned one must not be put into its handle.
            swapped = {"base": "tuned", "tuned": "base"}
            self._handles = {swapped[name]: handle for name, handle in self._handles.items()}
        elif not held:
            self._read(place, checkpoint, options)
        return held.get(place) or held.get(other) or self._handles[place]

    def _read(self, place: str, checkpoint: Checkpoint, options: dict[str, Any]) -> None:
        handle = self._handles.get(place)
        with doing(f"loading {checkpoint.label}"):
            if handle is None:
                handle = self._handles[place] = probe.Model.load(checkpoint, **options)
                if self.loading.generate_with:
                    handle.server = probe.served.served(self.loading.generate_with)
            else:
                handle.swap(checkpoint, allow_pickle=self.loading.allow_pickle)
        self.loads.append(checkpoint)

    def _turn(self, checkpoint: Checkpoint, options: Mapping[str, object]) -> Any:

        self._seat = self._seat or probe.turns.Seat(options)
        return probe.turns.Turn(self._seat, checkpoint)


def resolve(wanted: Input, value: object, pool: ModelPool, limit: int | None) -> Given:
    """The given value as an input: a path, an object of floor 1, a pandas frame.

    Raises:
        InputError: the value is not what this kind of input takes.
    """
    return _RESOLVERS[wanted.kind](wanted.name, value, pool, limit)


def _model(name: str, value: Any, pool: ModelPool, limit: int | None) -> Given:

    if isinstance(value, str | Path):
        loading = pool.loading  # an adapter's folder and repo@revision are names too
        named = probe.Checkpoint.of(value, base=loading.base_model, config=loading.config_folder)
        value = replace(named, revision=pool.loading.revision or named.revision)
    if isinstance(value, probe.Checkpoint):
        checkpoint = value
        prints = {
            "weights": checkpoint.fingerprint(),
            "tokenizer": checkpoint.tokenizer_fingerprint(),
            **pool.loading.identity(),
        }
        described = {**_identity(checkpoint), "fingerprint": prints["weights"]}
        return Given(digest(prints), described, lambda: pool.get(name, checkpoint))
    if hasattr(value, "fingerprint") and hasattr(value, "run"):
        described = {**_identity(value.checkpoint), "fingerprint": value.fingerprint()}
        return Given(value.fingerprint(), described, lambda: value)
    raise InputError(f"{name}: expected a checkpoint folder, a Checkpoint or a Model; got {type(value).__name__}")


def _identity(checkpoint: Checkpoint | None) -> dict[str, object]:
    if checkpoint is None:
        return {"path": None}
    fields = ("path", "revision", "step", "stage", "adapter", "config")
    return {f: getattr(checkpoint, f) for f in fields if getattr(checkpoint, f) is not None}


def _prompts(name: str, value: object, pool: ModelPool, limit: int | None) -> Given:

    if isinstance(value, str | Path):
        value = probe.Prompts.read(value)
    if not isinstance(value, probe.Prompts):
        raise InputError(f"{name}: expected a prompt file or Prompts; got {type(value).__name__}")
    prompts = value if limit is None else value.limit(limit)
    described = {"source": prompts.source, "n": len(prompts.items), "fingerprint": prompts.fingerprint()}
    return Given(prompts.fingerprint(), described, lambda: prompts)


def _reader(kind: str) -> Callable[[str, Any, ModelPool, int | None], Given]:
    def read(name: str, value: Any, pool: ModelPool, limit: int | None) -> Given:
        import probe

        if isinstance(value, str | Path):
            value = _rollouts(value) if kind == "Rollouts" else getattr(probe, kind).read(value)
        elif isinstance(value, probe.Prompts) and kind == "Rollouts":
            value = probe.Rollouts.of_prompts(value)
        described = {"source": str(value.source), "fingerprint": value.fingerprint()}
        return Given(value.fingerprint(), described, lambda: value)

    return read


def _rollouts(path: str | Path) -> Rollouts:
    """A rollout log, or the answers of a prompt file."""
    from probe import Prompts, Rollouts

    try:
        return Rollouts.read(path)
    except InputError:
        if not is_prompt_file(path):
            raise
        return Rollouts.of_prompts(Prompts.read(path))


def _table(name: str, value: object, pool: ModelPool, limit: int | None) -> Given:
    source = "in memory"
    if isinstance(value, str | Path):
        source, value = str(value), _frame(name, Path(value))
    if not isinstance(value, pd.DataFrame):
        raise InputError(f"{name}: expected a CSV or Parquet file or a pandas frame; got {type(value).__name__}")
    frame = value
    listed = {c: frame[c].map(repr) for c in frame.columns if frame[c].dtype == object}  # lists are no hash's matter
    hashed = pd.util.hash_pandas_object(frame.assign(**listed), index=False).to_numpy().tobytes()
    fingerprint = hashlib.sha256(hashed + "\x1f".join(map(str, frame.columns)).encode()).hexdigest()[:16]
    return Given(fingerprint, {"source": source, "n": len(frame), "fingerprint": fingerprint}, lambda: frame)


def _frame(name: str, path: Path) -> pd.DataFrame:
    """The rows of a file: responses that another program logged, or a table of numbers."""
    if name == "log":
        return read_responses(path)
    if not path.is_file() or path.suffix not in (".csv", ".tsv", ".parquet", ".jsonl", ".json"):
        raise InputError(f"{name}: {path} is no file .csv, .tsv, .parquet, .jsonl or .json")
    return pd.DataFrame(file_rows(path)).apply(_as_numbers)


def _as_numbers(column: pd.Series) -> pd.Series:
    """A column of a text file as numbers where every cell is one (or empty)."""
    numbers = pd.to_numeric(column.replace("", None), errors="coerce")
    return numbers if bool((numbers.notna() | column.isin(["", "nan", "NaN"]) | column.isna()).all()) else column


def _checkpoints(name: str, value: Any, pool: ModelPool, limit: int | None) -> Given:

    several = isinstance(value, list | tuple)
    found = map(probe.Checkpoint.of, value) if several else probe.discover(value, config=pool.loading.config_folder)
    series = list(found)
    prints = [c.fingerprint() for c in series]
    described = {"n": len(series), "members": [_identity(c) for c in series]}
    identity = pool.loading.identity()
    return Given(digest([prints, [c.step for c in series], identity]), described, lambda: Series(series, pool.loading))


class Series(list["Checkpoint"]):
    """Checkpoints that an analysis loads itself, and how models are loaded in this run."""

    def __init__(self, members: Sequence[Checkpoint], loading: Loading) -> None:
        super().__init__(members)
        self.loading = loading

    def load(self, checkpoint: Checkpoint, **options: Any) -> Any:
        """The model of one of them, under this run's backend, dtype and device."""

        return probe.Model.load(checkpoint, **self.loading.options(), **options)


_RESOLVERS: dict[str, Callable[[str, Any, ModelPool, int | None], Given]] = {
    "Model": _model,
    "Prompts": _prompts,
    "Rollouts": _reader("Rollouts"),
    "RunLog": _reader("RunLog"),
    "Table": _table,
    "Checkpoints": _checkpoints,
}
