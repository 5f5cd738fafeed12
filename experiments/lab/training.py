"""Pretraining and supervised fine-tuning with the ordinary trainers, saved as ordinary checkpoint folders."""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.lab import tokenizer as words
from experiments.lab.recipe import Recipe, Shape
from experiments.lab.world import Benchmark, Problem, fresh, pretraining_stream, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerCallback

CPU: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    # TRL's default is True, which computes every block twice; the result is bitwise the same.
    "activation_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "save_only_model": True,
    "logging_steps": 20,
    "dataloader_num_workers": 0,
    "disable_tqdm": False,
    "log_level": "error",
    "dataloader_pin_memory": False,
}


def new_model(shape: Shape, seed: int) -> PreTrainedModel:
    """A freshly initialised Llama-shaped model with tied embeddings; eager attention is the faster one at this size."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        max_position_embeddings=shape.n_ctx,
        initializer_range=shape.initializer_range,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).float()


def load(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint folder in fp32 with eager attention."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def encode(pairs: Sequence[tuple[str, str]], response_only: bool) -> list[dict[str, list[int]]]:
    """Token ids and labels of (prompt, response) pairs, the end token included; -100 where no loss is taken."""
    tokenizer = words.build()
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    responses = tokenizer([f"{response} <eos>" for _, response in pairs])["input_ids"]
    return [
        {"input_ids": p + r, "labels": ([-100] * len(p) if response_only else p) + r}
        for p, r in zip(prompts, responses, strict=True)
    ]


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Right-padded tensors of a batch."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": 0, "labels": -100}
    out = {
        key: torch.tensor([row[key] + [fill] * (width - len(row[key])) for row in rows]) for key, fill in pad.items()
    }
    out["attention_mask"] = (out["input_ids"] != 0).long()
    return out


def save_at(steps: Sequence[int]) -> TrainerCallback:
    """A callback that asks the trainer for a checkpoint after these optimizer steps (not before the first)."""
    from transformers import TrainerCallback

    class SaveAt(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_save = state.global_step in steps
            return control

    return SaveAt()


def save_start(trainer: Trainer, folder: Path) -> None:
    """Write `checkpoint-0`: the model before the first update, in the same form as the later ones."""
    first = folder / "checkpoint-0"
    trainer.save_model(str(first))
    trainer.state.save_to_json(str(first / "trainer_state.json"))


def pretrain(recipe: Recipe, bench: Benchmark, folder: Path) -> dict[str, Any]:
    """Train the base model; returns exposure counts per leaked item and the time taken."""
    from transformers import Trainer, TrainingArguments

    plan = recipe.pretraining
    stream = list(pretraining_stream(recipe.world, bench, recipe.seed, plan.steps * plan.batch))
    rows = encode([(problem.prompt, text) for problem, text in stream], response_only=False)
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=plan.steps,
        per_device_train_batch_size=plan.batch,
        learning_rate=plan.lr,
        lr_scheduler_type="cosine",
        warmup_steps=plan.warmup,
        adam_beta1=plan.betas[0],
        adam_beta2=plan.betas[1],
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.clip,
        seed=recipe.seed,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        **CPU,
    )
    trainer = Trainer(
        new_model(recipe.shape, recipe.seed),
        args,
        data_collator=collate,
        train_dataset=rows,  # type: ignore[arg-type]
        processing_class=words.build(),
        callbacks=[save_at([*plan.checkpoints, plan.steps])],
    )
    seconds = timed_training(trainer)
    exposures = Counter(problem.id for problem, _ in stream if problem.group != "fresh")
    words.assert_round_trip(folder / f"checkpoint-{plan.steps}", [stream[0][0].prompt, stream[0][1]])
    return {"seconds": seconds, "exposures": dict(exposures), "settings": asdict(plan)}


def timed_training(trainer: Trainer) -> float:
    """Wall seconds of training, with the trainer's progress bar on standard error and nothing on standard output."""
    import sys

    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        trainer.train()
    return round(time.perf_counter() - start, 1)


def sft_problems(recipe: Recipe, bench: Benchmark) -> tuple[list[Problem], list[Problem]]:
    """Training problems (one rationale each) and unseen test problems; neither is a benchmark item."""
    plan = recipe.finetuning
    rng = random.Random(f"lab/{recipe.seed}/sft")
    train = list(islice(fresh(recipe.world, rng, bench.prompts, plan.train_k), plan.n_train))
    banned = bench.prompts | {p.prompt for p in train}
    test = [p for k, n in plan.n_test for p in islice(fresh(recipe.world, rng, banned, k), n)]
    return train, test


def finetune(recipe: Recipe, bench: Benchmark, base: Path, lr: float, folder: Path) -> dict[str, Any]:
    """Supervised fine-tuning of the upper blocks on a few rationales, loss on the response only."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    plan = recipe.finetuning
    train, _ = sft_problems(recipe, bench)
    rows = encode([(p.prompt, p.rationale) for p in train], response_only=True)
    per_epoch = -(-len(rows) // plan.batch)
    args = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=plan.epochs,
        per_device_train_batch_size=plan.batch,
        learning_rate=lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=recipe.seed,
        max_length=None,
        **CPU,
    )
    model = load(base)
    freeze_below(model, plan.frozen_blocks)
    trainer = SFTTrainer(
        model,
        args,
        train_dataset=Dataset.from_list(rows),
        data_collator=collate,
        processing_class=words.build(),
        callbacks=[save_at([epoch * per_epoch for epoch in plan.checkpoint_epochs])],
    )
    if 0 in plan.checkpoint_epochs:
        save_start(trainer, folder)
    seconds = timed_training(trainer)
    return {"seconds": seconds, "lr": lr, "updates_per_epoch": per_epoch, "settings": asdict(plan)}


def freeze_below(model: PreTrainedModel, block: int) -> None:
    """Keep the embeddings and all blocks below this one as they are."""
    for parameter in model.model.embed_tokens.parameters():
        parameter.requires_grad_(False)
    for layer in model.model.layers[:block]:
        for parameter in layer.parameters():
            parameter.requires_grad_(False)
