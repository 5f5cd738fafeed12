"""Rollouts: the token-level log of an RL run, one row per response, read in windows and never whole.

A log is a Parquet file or a folder of them (columns: `probe.readers.schema`), or what a trainer wrote itself
(`probe.readers.rollout_files`). Rows are taken in one canonical order (step, prompt, content), so neither the order
of rows in a file nor the way they are cut into shards changes a number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset as pads

from probe.errors import InputError
from probe.readers.answers import table_of
from probe.readers.arrow import index_rows, token_frame
from probe.readers.contexts import with_ids
from probe.readers.lists import is_list
from probe.readers.repeats import repeated
from probe.readers.rollout_files import FILE, open_log
from probe.readers.schema import AT_TEMPERATURE, FLOATS, IDS, REQUIRED, lacking, ruled_out
from probe.readers.segments import segmented

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from probe.prompts import Prompts

__all__ = ["WINDOW", "Rollouts"]

pc: Any = pyarrow.compute  # its functions are made at import: no stub knows them
WINDOW = 2048  # responses held at once: about 40 MB of columns at 1,000 tokens each


@dataclass(frozen=True, eq=False)
class Rollouts:
    """A log of sampled responses.

    Attributes:
        data: the rows, lazily.
        source: where they were read from.
        said: what a reader of the numbers must know of how they were read (`notes` has these and more).
        prompts: items whose answers stand in for responses (`of_prompts`).
    """

    data: pads.Dataset
    source: str = "memory"
    said: tuple[str, ...] = ()
    prompts: Prompts | None = None

    @classmethod
    def read(cls, path: str | Path | Sequence[str | Path]) -> Rollouts:
        """The log at a path: a Parquet or JSONL file, a folder of such files, or a list of files.

        TRL's completions, verl's `rollout_data_dir` and OpenRLHF's JSONL are recognised by their columns.

        Raises:
            InputError: no such file, a truncated or foreign file (named, with the whole ones), shards whose
                columns differ in type, no `step`, or nothing that could be a response.
        """

        return cls(*open_log(path))._checked()

    @classmethod
    def of(cls, rows: pa.Table | pd.DataFrame | Sequence[Mapping[str, object]], source: str = "memory") -> Rollouts:
        """A log from rows in memory: an Arrow table, a pandas frame or a list of dicts."""
        if isinstance(rows, pd.DataFrame):
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        elif not isinstance(rows, pa.Table):
            # Not from_pylist, which takes the columns of the first row for all.
            rows = pa.table({name: [r.get(name) for r in rows] for name in dict.fromkeys(n for r in rows for n in r)})
        return cls(pads.dataset(rows), source)._checked()

    @classmethod
    def of_prompts(cls, prompts: Prompts) -> Rollouts:
        """Prompts with answers (an SFT set) as a log of one step: what was to be learned, not what was sampled.

        Raises:
            InputError: items without an answer (their ids).
        """
        note = f"{prompts.source} holds answers, not samples: they are read as the responses of one step (0)"
        return cls(pads.dataset(table_of(prompts)), prompts.source, (note,), prompts)

    def _checked(self) -> Rollouts:
        names = set(self.columns)
        rules = "; ".join(f"without {c}: no {', '.join(a)}" for c, a in ruled_out(names).items())
        for need in ("step", "response_token_ids|response_text"):
            if lacking(names, [need]):
                raise InputError(
                    f"{self.source}: no column {need.replace('|', ' or ')}; columns are {sorted(names)}. {rules}"
                )
        halves = [f.name for f in self.data.schema if f.name in FLOATS and _element(f.type) == pa.float16()]
        if halves:
            raise InputError(f"{self.source}: {halves} hold 16-bit floats, too coarse for log-probs; log float32")
        return self

    def __len__(self) -> int:
        return len(self.index)

    @property
    def columns(self) -> list[str]:
        """Names of the columns the log has."""
        return [n for n in self.data.schema.names if n != FILE]

    @property
    def steps(self) -> list[int]:
        """The steps with at least one response, sorted."""
        return sorted(self.index["step"].unique().tolist())

    @property
    def has_ids(self) -> bool:
        """True if the log has the token ids that were sampled."""
        return not lacking(self.columns, IDS)

    @property
    def has_groups(self) -> bool:
        """True if the log names design groups of items (column `group`), not only sampling groups."""
        return "group" in self.columns

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know: text that was re-tokenized, rows that stood in the log twice."""
        return (*self.said, *self._indexed[1])

    @property
    def index(self) -> pd.DataFrame:
        """One row per response in canonical order; what was logged twice stands here once.

        Columns: row (place in the data), step, item, group, group_uid, sample (number within step, item and sampling
        group, in the order of the digest, not of the log: `row` has that), n_prompt, n_response, n_tokens (masked in),
        digest (of the whole row's content).
        """
        return self._indexed[0]

    @cached_property
    def _indexed(self) -> tuple[pd.DataFrame, list[str]]:
        frames: list[pd.DataFrame] = []
        tokenizers: set[str] = set()
        files: list[object] = []
        start = 0
        for table in self._batches():
            if FILE in table.column_names:
                files += table[FILE].to_pylist()
                table = table.drop_columns([FILE])
            frames.append(index_rows(table, start, self.source))
            start += table.num_rows
            if "tokenizer" in table.column_names:
                tokenizers |= {str(t) for t in table["tokenizer"].to_pylist()}
        if not frames:
            raise InputError(f"{self.source}: no rows; expected at least one response")
        if len(tokenizers) > 1:
            raise InputError(
                f"{self.source}: responses of several tokenizers ({sorted(tokenizers)[:4]}): split the log"
            )
        found = pd.concat(frames, ignore_index=True)
        drop, notes = repeated(found.assign(file=pd.factorize(np.asarray(files or [0] * len(found), object))[0]))
        found = found[~drop].sort_values(["step", "item", "group_uid", "digest"], kind="stable", ignore_index=True)
        found["sample"] = found.groupby(["step", "item", "group_uid"], sort=False).cumcount()
        return found, notes

    def _batches(self) -> Iterator[pa.Table]:
        """All rows, a window at a time, with the file each is from; a page that cannot be read is the file's fault."""
        names = list(self.data.schema.names)
        on_disk = isinstance(self.data, pads.FileSystemDataset)
        try:
            for batch in self.data.to_batches(columns=[*names, *["__filename"] * on_disk], batch_size=WINDOW):
                if batch.num_rows:
                    table = pa.Table.from_batches([batch])
                    yield table.rename_columns([*names, FILE]) if on_disk else table
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{self.source}: damaged: {str(error).splitlines()[0]}; copy the file again") from error

    def fingerprint(self) -> str:
        """Hex hash of all columns of all rows; the order of rows and their shards are no part of it."""
        digest = hashlib.sha256(json.dumps(sorted(self.columns)).encode())
        digest.update(np.sort(self.index["digest"].to_numpy(np.uint64)).tobytes())
        return digest.hexdigest()[:32]

    def missing(self) -> dict[str, list[str]]:
        """Columns of a complete log that this one lacks, each with the analyses that this rules out."""
        rules = ruled_out(self.columns)
        return {need: rules.get(need, []) for need in dict.fromkeys([*lacking(self.columns, REQUIRED), *rules])}

    def require(self, *needs: str, by: str) -> None:
        """Raise unless the log has these columns (`a|b`: either) and what they cannot be read without.

        Raises:
            InputError: naming the columns that are missing, what else that rules out, and what to do; log-probs
                and entropies whose temperature is unknown.
        """
        gone = lacking(self.columns, needs)
        if gone:
            also = sorted({a for need in gone for a in ruled_out(self.columns).get(need, [])} - {by})
            raise InputError(
                f"{by} needs {', '.join(g.replace('|', ' or ') for g in gone)}, which {self.source} lacks (it has "
                f"{', '.join(sorted(self.columns))}). {f'This also rules out {chr(44).join(also)}. ' if also else ''}"
                "Record the run with probe.training.recording, or fill log-probs and entropies with probe.recompute."
            )
        used = [n for need in needs for n in need.split("|") if n in self.columns and n in AT_TEMPERATURE]
        if used and not self._knows("logp_temperature"):
            raise InputError(
                f"{by} reads {', '.join(used)} of {self.source}, but logp_temperature (what the logits were divided "
                "by before log-probs and entropies were taken) is missing or null, so these numbers cannot be "
                "compared with a model's. Add the column, or recompute them with probe.recompute."
            )

    def _knows(self, name: str) -> bool:
        """True if every row has a number in this column."""
        if name not in self.columns:
            return False
        batches = self.data.to_batches(columns=[name])
        return not any(b.column(0).null_count or pc.any(pc.is_nan(b.column(0))).as_py() for b in batches if b.num_rows)

    def where(self, *, steps: Sequence[int]) -> Rollouts:
        """The responses of these steps.

        Raises:
            InputError: a step the log does not have (with those it has).
        """
        gone = sorted(set(steps) - set(self.steps))
        if gone or not steps:
            raise InputError(f"{self.source}: no responses at step(s) {gone or 'none asked'}; it has {self.steps}")
        kept = self.data.filter(pc.field("step").isin(pa.array(sorted(set(steps)), pa.int64())))
        return replace(self, data=kept)

    def windows(self, columns: Sequence[str], size: int = WINDOW) -> Iterator[tuple[pd.DataFrame, pa.Table]]:
        """Pieces of the log in canonical order: rows of `index`, and these columns of the same rows."""
        names = [c for c in dict.fromkeys(columns) if c in self.columns]
        for start in range(0, len(self.index), size):
            rows = self.index.iloc[start : start + size].reset_index(drop=True)
            yield rows, self._rows(rows, names)

    def _rows(self, rows: pd.DataFrame, names: Sequence[str]) -> pa.Table:
        # Only the steps of the window are scanned: Parquet's row-group statistics skip the rest.
        low, high = int(rows["step"].min()), int(rows["step"].max())
        scanned = np.sort(self.index.loc[self.index["step"].between(low, high), "row"].to_numpy())
        scope = self.data.filter((pc.field("step") >= low) & (pc.field("step") <= high))
        places = np.searchsorted(scanned, rows["row"].to_numpy())
        return scope.scanner(columns=list(names)).take(pa.array(places)).combine_chunks()

    def tokens(self, columns: Sequence[str] = (), size: int = WINDOW) -> Iterator[pd.DataFrame]:
        """Masked-in response tokens, one row each, window by window.

        Columns: response (row of the window), step, item, group, group_uid, sample, pos (place in the response,
        from 0), token_id, and those asked for; a response's own number stands at each of its tokens.
        """
        for rows, table in self.windows([*columns, "response_token_ids", "response_mask"], size):
            yield token_frame(rows, table, columns)

    def scalars(self, columns: Sequence[str]) -> pd.DataFrame:
        """`index` with these columns of one value per response beside it."""
        wanted = [c for c in columns if c in self.columns and c not in self.index.columns]
        parts = [pd.concat([rows, table.to_pandas()], axis=1) for rows, table in self.windows(wanted or ["step"])]
        return pd.concat(parts, ignore_index=True).loc[:, [*self.index.columns, *wanted]]

    def advantages(self) -> pd.DataFrame:
        """`index` with `advantage`, one number per response (the mean over its masked-in tokens where the log has
        one per token; NaN for a response without any)."""
        if not is_list(self.data.schema.field("advantage").type):
            return self.scalars(["advantage"]).astype({"advantage": float})
        parts: list[pd.DataFrame] = []
        for rows, table in self.windows(["advantage", "response_token_ids", "response_mask"]):
            means = token_frame(rows, table, ["advantage"]).groupby("response")["advantage"].mean()
            parts.append(rows.assign(advantage=means.reindex(range(len(rows))).to_numpy(float)))
        return pd.concat(parts, ignore_index=True)

    def uncentred(self, tolerance: float = 1e-3) -> list[str]:
        """Sampling groups whose advantages do not average to zero, as `step/group_uid`, sorted.

        A group counts when its mean exceeds `tolerance` times its largest advantage. The first-order forms in
        p * A hold for centred advantages only.
        """
        frame = self.advantages().dropna(subset=["advantage"])
        frame["size"] = frame["advantage"].abs()
        grouped = frame.groupby(["step", "group_uid"])
        off = grouped["advantage"].mean().abs() > tolerance * grouped["size"].max()
        return [f"{step}/{uid}" for step, uid in off.index[off.to_numpy()].tolist()]

    def segmented(self, tokenizer: Any = None, pattern: str = "") -> Rollouts:
        """The log with segments made anew: runs of its mask, or, with a tokenizer, what its tags (or a pattern with
        groups named think, call, tool, answer or turn) mark; what a tag says a tool wrote is masked out.

        Raises:
            InputError: a pattern that is none.
        """
        return replace(self, data=pads.dataset(segmented(self.data.to_table(), tokenizer, pattern)))

    def tokenized(self, tokenizer: PreTrainedTokenizerBase, framing: Mapping[str, object] | None = None) -> Rollouts:
        """The log with ids for its texts, where the round trip through the tokenizer is exact.

        The ids the policy really sampled may have been other pieces of the same text, which no text log can show;
        a note says so. `framing` (BOS, options of the chat template) is that of the model, for answers of prompts.

        Raises:
            InputError: responses whose text does not come back from its ids (named), or no text.
        """
        if self.has_ids:
            return self
        if self.prompts is not None:
            from probe.readers import answers

            table = answers.with_ids(self.data.to_table(), self.prompts, tokenizer, dict(framing or {}))
            return replace(self, data=pads.dataset(table))
        table, note = with_ids(self.data.to_table(), tokenizer, self.source)
        return replace(self, data=pads.dataset(table), said=(*self.said, note))


def _element(kind: Any) -> Any:
    return kind.value_type if is_list(kind) else kind
