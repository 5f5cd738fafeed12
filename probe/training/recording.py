"""A GRPO trainer that writes down every token of its rollouts: change one import, get a `Rollouts` table.

    from probe.training.recording import GRPOTrainer      # instead of: from trl import GRPOTrainer

The class is TRL's own with a recorder in front. It writes `<output_dir>/rollouts/step-000001.parquet`, one file per
rollout step, one row per response, under a temporary name and renamed, so that a killed run leaves whole files only.
The recorder draws no random number and touches no tensor that the loss sees: the weights of a recorded and of an
unrecorded run are bitwise equal. TRL is needed only when the class is asked for (`pip install posttrain-probe[train]`).

What a row means:

- `step` is the number of optimizer steps the sampling policy had made: `checkpoint-<step>` sampled it.
- `old_logp`, `H`, `sum_p2`, `B`, `max_logp` are the trainer's own view of that policy at each response token, after
  division of the logits by `logp_temperature`; natural logarithms, fp32, over the whole vocabulary.
- `new_logp` is the log-prob in the last loss call that used the row, `new_logp_updates` in each of them, and
  `update_steps` the optimizer steps before each; `grad_norm` and `lr` belong to the last of these updates.
- `sampling_logp` is the engine's own log-prob of each token (vLLM), beside the trainer's `old_logp`; where the trainer
  sampled by itself there is no such column. `segment_starts` and `segment_type` are the runs of the mask: what a tool
  answered is a segment of its own.
- `micro_batch_id` says which rows shared a loss call: some signals are defined per micro-batch.

Does not record: prompts' log-probs, the logits themselves, multimodal inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from probe.errors import ProbeError
from probe.readers.segments import from_masks
from probe.training.recorded_step import (
    Pending,
    check_agreement,
    parquet_schema,
    prompt_id,
    ragged,
    response_mask,
    token_statistics,
    weighted,
    write_step,
)

if TYPE_CHECKING:
    import torch
    from trl import GRPOTrainer as GRPOTrainer

Batch: TypeAlias = dict[str, Any]
"""What TRL hands from its sampling to its loss, by name."""

__all__ = ["GRPOTrainer", "RolloutRecorder", "parquet_schema", "token_statistics"]


class RolloutRecorder:
    """The recorder, mixed in before TRL's GRPOTrainer; `GRPOTrainer` of this module is the two together.

    Relies on these methods of TRL 1.16: `_calculate_rewards`, `_generate_and_score_completions`,
    `_get_per_token_logps_and_entropies`, `_compute_loss` and `log`. On the first rollout it compares its log-probs
    with the trainer's own and refuses to go on if they differ: a head it does not understand is an error, not a
    wrong number.
    """

    args: Any
    accelerator: Any
    model: Any
    state: Any
    reward_func_names: list[str]
    num_generations: int
    rollouts_dir: Path | None = None
    _pending: Pending | None = None
    _rewards: Any = None
    _states: list[Any] | None = None
    _sampling = False
    _checked = False

    def _calculate_rewards(self, *args: object, **kwargs: object) -> Any:
        upstream: Any = super()
        self._rewards = upstream._calculate_rewards(*args, **kwargs)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        import torch

        upstream: Any = super()
        if not self.model.training:
            return upstream._generate_and_score_completions(inputs)
        self._flush()
        self._states, self._sampling = None, True
        output: Batch = upstream._generate_and_score_completions(inputs)
        self._sampling = False
        self._pending = self._start(inputs, output)
        if self._states is not None:
            rows = torch.arange(len(inputs))
            self._score(self._pending, rows, output, torch.cat(self._states), output["old_per_token_logps"])
        # Travels through TRL's shuffle and split, so that a loss call knows which rows it was given.
        output["rollout_row"] = torch.arange(len(inputs), device=output["completion_ids"].device)
        return output

    def _get_per_token_logps_and_entropies(self, model: object, *args: object, **kwargs: object) -> Any:
        upstream: Any = super()
        # While sampling, the first call scores the sampling policy (later ones the reference), but only in the
        # misaligned case, where TRL computes old log-probs at all.
        if self._sampling and self._states is None and self._scores_old_policy():
            self._states = []
            with self._catch_states(self._states):
                return upstream._get_per_token_logps_and_entropies(model, *args, **kwargs)
        return upstream._get_per_token_logps_and_entropies(model, *args, **kwargs)

    def _scores_old_policy(self) -> bool:
        every = self.args.steps_per_generation * self.args.num_iterations
        corrected = self.args.use_vllm and self.args.vllm_importance_sampling_correction
        return self.args.gradient_accumulation_steps % every != 0 or corrected

    def _compute_loss(self, model: Any, inputs: Batch) -> Any:

        upstream: Any = super()
        pending = self._pending
        if pending is None or "rollout_row" not in inputs or not self.model.training:
            return upstream._compute_loss(model, inputs)
        rows: torch.Tensor = inputs["rollout_row"]
        unscored = pending.floats["H"][int(rows[0])] is None
        caught: list[object] = []
        with self._catch_logps() as logps:
            if unscored:
                with self._catch_states(caught):
                    loss = upstream._compute_loss(model, inputs)
            else:
                loss = upstream._compute_loss(model, inputs)
        if unscored:
            self._score(pending, rows, inputs, caught[0], logps[0])
        self._note_update(pending, rows.tolist(), logps[0], inputs)
        return loss

    @contextmanager
    def _catch_logps(self) -> Generator[list[Any]]:
        """Collects what the trainer's own scoring returns inside the loss, detached; the loss sees the original."""
        found: list[object] = []
        original: Any = self._get_per_token_logps_and_entropies

        def spy(*args: object, **kwargs: object) -> Any:
            result = original(*args, **kwargs)
            found.append(result[0].detach())
            return result

        self.__dict__["_get_per_token_logps_and_entropies"] = spy
        try:
            yield found
        finally:
            del self.__dict__["_get_per_token_logps_and_entropies"]

    @contextmanager
    def _catch_states(self, into: list[Any]) -> Generator[None]:
        """Collects the backbone's last hidden states (after the final norm), detached."""

        def keep(_module: Any, _args: Any, output: Any) -> None:
            into.append(output.last_hidden_state.detach())

        handle = self._causal_model().base_model.register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def _causal_model(self) -> Any:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def _head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model's head with its family's scale and soft cap, and the sampling temperature, in fp32."""
        import torch

        model = self._causal_model()
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        cap = getattr(config, "final_logit_softcapping", None)
        scale = getattr(config, "logit_scale", None) or 1.0
        if getattr(config, "logits_scaling", None):
            scale = scale / config.logits_scaling
        temperature = self.args.temperature

        def logits(rows: torch.Tensor) -> torch.Tensor:

            values = head(rows.to(head.weight.dtype)).float()
            values = values if scale == 1.0 else values * scale
            values = values if cap is None else torch.tanh(values / cap) * cap
            return values if temperature == 1.0 else values / temperature

        return logits

    def _score(self, pending: Pending, rows: torch.Tensor, inputs: Batch, states: Any, theirs: Any) -> None:
        """Fill entropy and its companions of these rows from the states just before each response token."""
        import torch

        real = response_mask(inputs)
        width = real.shape[1]
        with torch.no_grad():
            values = token_statistics(states[:, -width - 1 : -1][real], self._head(), inputs["completion_ids"][real])
        reference = theirs[real].float()
        if not self._checked:
            check_agreement(values["old_logp"], reference, str(states.dtype))
            self._checked = True
        # The trainer's own numbers are what its ratios are made of.
        values["old_logp"] = reference
        pending.fill(rows.tolist(), {name: value.float().cpu().numpy() for name, value in values.items()})

    def _note_update(
        self, pending: Pending, rows: list[int], logps: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> None:
        real = response_mask(inputs).cpu().numpy()
        values = logps.float().cpu().numpy()
        step, first = int(self.state.global_step), min(rows)
        for place, row in enumerate(rows):
            pending.updates[row].append((step, values[place][real[place]]))
            # Rows that share a loss call share the smallest row number among them.
            pending.micro_batch[row] = first
            pending.lr[row] = self._last_lr()
            # Known only after the optimizer step, if the trainer logs it then.
            pending.grad_norm[row] = math.nan

    def _last_lr(self) -> float:
        scheduler: Any = getattr(self, "lr_scheduler", None)
        return float(scheduler.get_last_lr()[0]) if scheduler is not None else math.nan

    def log(self, logs: dict[str, float], *args: object, **kwargs: object) -> None:
        """Pass on to TRL; the gradient norm of the update just made belongs to the rows it used."""
        if self._pending is not None and "grad_norm" in logs:
            made = int(self.state.global_step) - 1
            for row, seen in enumerate(self._pending.updates):
                if seen and seen[-1][0] == made:
                    self._pending.grad_norm[row] = float(logs["grad_norm"])
        upstream: Any = super()
        upstream.log(logs, *args, **kwargs)

    def train(self, *args: object, **kwargs: object) -> Any:
        """Train as TRL does; the last rollout step is written at the end."""
        upstream: Any = super()
        result = upstream.train(*args, **kwargs)
        self._flush()
        return result

    def _start(self, inputs: list[Batch], output: Batch) -> Pending:
        args, n, step = self.args, len(inputs), int(self.state.global_step)
        prompt_ids, prompt_real = output["prompt_ids"].cpu().numpy(), output["prompt_mask"].cpu().numpy().astype(bool)
        real = output["completion_mask"].cpu().numpy().astype(bool)
        ids = output["completion_ids"].cpu().numpy()
        responses = [row[keep].astype(np.int32) for row, keep in zip(ids, real, strict=True)]
        tools = output.get("tool_mask")
        masks = real if tools is None else tools.cpu().numpy().astype(bool)
        offset = self.accelerator.process_index * n
        parts = self._rewards[offset : offset + n].double().cpu().numpy()
        weights = getattr(self, "reward_weights", None)
        weight = np.ones(parts.shape[1]) if weights is None else weights.double().cpu().numpy()
        ends = set(getattr(self, "eos_token_ids", []))
        # What a tool answered stands in the response, masked out: its runs are the segments.
        starts, types = from_masks([row[keep] for row, keep in zip(masks, real, strict=True)])
        columns: dict[str, object] = {
            "segment_starts": starts,
            "segment_type": types,
            "run_id": [args.run_name or Path(args.output_dir).name] * n,
            "policy_version": [f"checkpoint-{step}"] * n,
            "step": [step] * n,
            "prompt_id": [prompt_id(item) for item in inputs],
            "group_uid": [f"{step}-{(offset + i) // self.num_generations}" for i in range(n)],
            "prompt_token_ids": [row[keep] for row, keep in zip(prompt_ids, prompt_real, strict=True)],
            "response_token_ids": responses,
            "response_mask": [row[keep] for row, keep in zip(masks, real, strict=True)],
            "finish_reason": ["stop" if len(r) and int(r[-1]) in ends else "length" for r in responses],
            "reward": [weighted(row, weight) for row in parts],
            "reward_parts": [list(zip(self.reward_func_names, row.tolist(), strict=True)) for row in parts],
            "advantage": output["advantages"].float().cpu().numpy(),
            "adv_std_normalised": [args.scale_rewards not in ("none", False)] * n,
            "adv_eps": [1e-4] * n,
            "temperature": [args.temperature] * n,
            "top_p": [args.top_p] * n,
            "top_k": [args.top_k or 0] * n,
            "sampling_logp": ragged(output.get("sampling_per_token_logps"), real),
            "ref_logp": ragged(output.get("ref_per_token_logps"), real),
            "logp_temperature": [args.temperature] * n,
            "clip_low": [args.epsilon] * n,
            "clip_high": [args.epsilon if args.epsilon_high is None else args.epsilon_high] * n,
            "loss_agg": [str(args.loss_type)] * n,
        }
        return Pending(step, columns, [list(row) for row in responses])

    def _flush(self) -> None:
        """Write the rollout step in hand, if there is one. Called when its last update is made."""
        if self._pending is None:
            return
        folder = self.rollouts_dir or Path(self.args.output_dir) / "rollouts"
        rank = f".rank-{self.accelerator.process_index}" if self.accelerator.num_processes > 1 else ""
        number = self._pending.step // self._updates_per_rollout() + 1
        meta = {"format": 1, "scale_rewards": str(self.args.scale_rewards), "beta": self.args.beta}
        write_step(self._pending, folder / f"step-{number:06d}{rank}.parquet", meta)
        self._pending = None

    def _updates_per_rollout(self) -> int:
        calls = self.args.steps_per_generation * self.args.num_iterations
        return max(1, calls // self.args.gradient_accumulation_steps)


_built: dict[str, type] = {}


def __getattr__(name: str) -> object:
    if name != "GRPOTrainer":
        raise AttributeError(f"module 'probe.training.recording' has no attribute {name!r}")
    if name not in _built:
        try:
            import trl
        except ModuleNotFoundError as error:
            raise ProbeError("recording rollouts needs TRL: pip install 'posttrain-probe[train]'") from error
        _built[name] = type("GRPOTrainer", (RolloutRecorder, trl.GRPOTrainer), {"__doc__": RolloutRecorder.__doc__})
    return _built[name]
