"""A callback for transformers' and TRL's trainers: analyses on the model while it trains, without touching it.

    import analyses
    from probe.training import ProbeCallback

    watch = ProbeCallback(analyses.live(["perplexity"], prompts="items.jsonl"), every=50)
    watch.attach(trainer)
    trainer.train()

What is measured reads a second module tree over the same memory (`Model.wrap`): no copy of the weights is made, no
gradient is written, every state of random numbers is put back, so the weights of a run with the callback and of one
without are bitwise equal. An error of a measurement is warned about once and never stops the training.

Numbers go where the trainer's own go (`trainer_state.json`, W&B, trackio, TensorBoard), as `probe/...` at the
optimizer step they are of.

Does not measure: models whose parameters lie on other ranks (FSDP, ZeRO-3): save and sweep the checkpoints.
"""

# ruff: noqa: ARG002 - a callback is handed more than it asks for
from __future__ import annotations

import random
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import ref

import numpy as np
from transformers import Trainer, TrainerCallback

from probe import devices
from probe.errors import InputError
from probe.model import Model

if TYPE_CHECKING:
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

UNATTACHED = (
    "the trainer is not known, so the numbers of ProbeCallback go to the results alone; call callback.attach(trainer) "
    "instead of add_callback to have them in its logs too"
)


MARGIN = 1.5  # times what a measurement has taken that the next one is allowed for


class Measure(Protocol):
    """What is measured: numbers of a model at an optimizer step of the run in a folder, by name."""

    def __call__(self, model: Model, step: int, run: Path) -> Mapping[str, float]: ...

    def begin(self, step: int, run: Path) -> None:
        """Told before the first measurement at which step the training starts: 0, or where it resumes."""


class ProbeCallback(TrainerCallback):
    """Measures at every save, or every so many optimizer steps, for as long as a share of the time allows.

    Attributes:
        seconds: time taken by all measurements so far.
        measured: steps that were measured.
        skipped: steps that were due, and left out to stay within the budget.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        every: int | None = None,
        budget: float | None = 0.05,
        at_start: bool = True,
        backend: str = "transformer_lens",
    ) -> None:
        """Prepare; nothing is read before the training begins.

        Args:
            measure: what is measured (`analyses.live` makes one).
            every: optimizer steps between measurements; None: at every save.
            budget: share of the training's time that measuring may take. The first measurement is always made, since
                nobody knows before how long one takes; after it a step that would exceed the share is skipped. None:
                every one is made.
            at_start: whether the model is measured before the first update too.
            backend: of the handle.

        Raises:
            InputError: `every` below 1, or a budget that is no share.
        """
        if every is not None and every < 1:
            raise InputError(f"every={every}; expected a number of optimizer steps, 1 or more, or None for every save")
        if budget is not None and not 0 < budget <= 1:
            raise InputError(
                f"budget={budget}; expected a share of the training's time, above 0 and at most 1, or None"
            )
        self.measure, self.every, self.budget = measure, every, budget
        self.at_start, self.backend = at_start, backend
        self.seconds, self.measured, self.skipped = 0.0, list[int](), list[int]()
        self._trainer: Any = lambda: None
        self._model: Model | None = None
        self._warned = set[str]()
        self._begun, self._took = 0.0, list[float]()

    def attach(self, trainer: Trainer) -> ProbeCallback:
        """Add this to a trainer, and log into its logs."""
        self._trainer = ref(trainer)
        trainer.add_callback(self)
        return self

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Before the first update."""
        self._begun = time.perf_counter()
        if not state.is_world_process_zero:
            return
        with self._harmless("begin"):
            self.measure.begin(state.global_step, Path(str(args.output_dir)))
        if self._trainer() is None:
            self._warn(UNATTACHED)
        if self.at_start and state.global_step == 0:
            self._due(args, state, kwargs)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """After an update."""
        if self.every is not None and state.global_step % self.every == 0:
            self._due(args, state, kwargs)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a checkpoint was written."""
        if self.every is None:
            self._due(args, state, kwargs)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Say what was left out; let go of the model."""
        self._model = None
        if self.skipped:
            self._warn(
                f"{len(self.skipped)} of {len(self.skipped) + len(self.measured)} measurements were skipped to stay "
                f"within {self.budget or 0:.0%} of the time; raise budget, or measure less"
            )

    def _due(self, args: TrainingArguments, state: TrainerState, given: Mapping[str, Any]) -> None:
        """Measure now, unless it was done at this step, is another process's, or would take too long."""
        step = state.global_step
        if not state.is_world_process_zero or step in (*self.measured, *self.skipped):
            return
        elapsed = time.perf_counter() - self._begun
        if self.measured and self.budget is not None and self.seconds + self._next() > self.budget * elapsed:
            self.skipped.append(step)
            return
        started = ready = time.perf_counter()
        with self._harmless("measure"), _same_random_numbers():
            model = self._handle(given)
            ready = time.perf_counter()  # to wrap the model is needed once, and says nothing about the next time
            self._log(self.measure(model, step, Path(str(args.output_dir))))
            self.measured.append(step)
        self._took.append(time.perf_counter() - ready)
        self.seconds += time.perf_counter() - started

    def _next(self) -> float:
        """Seconds that the next one may take: the longest so far and a margin; the very first also imports."""
        return MARGIN * max(self._took[1:] or self._took)

    def _handle(self, given: Mapping[str, Any]) -> Model:
        """The handle over the trainer's model; made anew where its weights were put elsewhere."""
        hf_model, tokenizer = given["model"], given["processing_class"]
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if self._model is None or not _shares_memory(self._model, hf_model):
            self._model = None
            self._model = Model.wrap(hf_model, tokenizer, backend=self.backend)
        return self._model

    def _log(self, numbers: Mapping[str, float]) -> None:
        trainer = self._trainer()
        if trainer is None:
            return
        meant = dict(vars(trainer.control))
        try:
            # Not its own `log`: TRL's closes the trainer's running means with every call.
            Trainer.log(trainer, {name: float(value) for name, value in numbers.items()})
        finally:
            # To have logged counts as the log that was due at this step, and the trainer's own would be left out.
            vars(trainer.control).update(meant)

    @contextmanager
    def _harmless(self, what: str) -> Generator[None]:
        """An error in here becomes a warning, once for each kind, whatever it is: training goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not cost a training run
            self._warn(f"ProbeCallback could not {what} ({type(error).__name__}: {error}); training goes on")

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            with suppress(Warning):  # where warnings are errors
                warnings.warn(text, stacklevel=2)


def _shares_memory(model: Model, hf_model: torch.nn.Module) -> bool:
    """Whether the handle's parameters lie where the trainer's do."""
    ours = {p.data_ptr() for p in model.weights().values()}
    return all(p.data_ptr() in ours for p in hf_model.parameters())


@contextmanager
def _same_random_numbers() -> Generator[None]:
    """Whatever is drawn in here is not drawn from what the training draws from."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - what trainers and data loaders draw from
    try:
        with devices.own_random_numbers():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002
