"""Model: the handle a person holds. Load a checkpoint, wrap a model in memory, put other weights in its place."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe import backends, check
from probe.backends.hooks import edited_module
from probe.by_text import ByText
from probe.checkpoints import fit, loading, tokenizers
from probe.checkpoints.series import Checkpoint
from probe.dtypes import dtype_named
from probe.errors import InputError
from probe.html import table
from probe.shape import ModelShape
from probe.sites import KINDS
from probe.tokens import Framing

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from probe.interventions import Edit
    from probe.texts import Texts
    from probe.tokens import Template


class Model(ByText):
    """A model one can read, edit and unembed. Its only state is its weights (`swap`) and open edits."""

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint | str | Path,
        *,
        backend: str = "transformer_lens",
        dtype: str = "float32",
        device: str = "cpu",
        check: bool = True,
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        revision: str | None = None,
        attn_implementation: str = "eager",
        device_map: str | Mapping[str, str | int] | None = None,
        remote: bool = False,
        bos: bool | None = None,
        template_options: Mapping[str, object] | None = None,
    ) -> Model:
        """The model of a checkpoint, with raw weights (nothing folded or centred).

        Args:
            checkpoint: a model folder, an adapter's folder, a Hub repository, or a `Checkpoint`.
            backend: `transformer_lens` or `nnsight`.
            dtype: `float32`, `bfloat16` or `float16` (`fp32`, `bf16`, `fp16`).
            device: a torch device.
            check: run the proofs of `probe.check` (a handful of tiny forward passes); those of reading inside attention
                run before that is first done.
            allow_pickle: read `pytorch_model.bin` (with `weights_only`); off, because a pickle runs code.
            trust_remote_code: let transformers run code from the checkpoint; off.
            revision: a Hub revision.
            attn_implementation: transformers' attention kernel (`eager`, `sdpa`, ...).
            device_map: spread the model over devices, as transformers takes it (`auto`, or a map of modules to
                devices, `cpu` or `disk`); embedding, final norm and head stay where they can be read. `stream`: on
                the CPU, blocks read from their files as the pass comes to them (`probe.checkpoints.streaming`).
            remote: run on a server that holds the model (`nnsight` only); no weights are fetched and no
                proofs run, and what a server cannot do is refused before anything is sent.
            bos: put BOS before every text, or not; by default the tokenizer decides. Never put twice.
            template_options: variables of the chat template, e.g. `{"enable_thinking": False}`.

        Raises:
            InputError: the checkpoint is not whole, not safe, or its tokenizer is not the one saved.
            ProbeError: a proof failed (named): no number of this model would be right.
        """
        source = Checkpoint.of(checkpoint)
        if revision is not None:
            source = replace(source, revision=revision)
        framing = Framing(bos, dict(template_options or {}))
        if remote:
            return cls._remote(source, backend, dtype_named(dtype), framing)
        reading = loading.Reading(dtype, device, attn_implementation, device_map, allow_pickle, trust_remote_code)
        tokenizer = tokenizers.read_tokenizer(source, trust_remote_code=trust_remote_code)
        model = cls._build(loading.read_model(source, reading), tokenizer, backend, source, prove=check)
        model.reading, model.framing = reading, framing
        return model

    @classmethod
    def _remote(cls, source: Checkpoint, backend: str, dtype: str, framing: Framing) -> Model:
        from probe.backends.ndif import NdifBackend
        from probe.checkpoints.hub import snapshot

        if backend != "nnsight" or source.adapter:
            raise InputError(f"remote=True needs backend='nnsight' and no adapter; got {backend!r}, {source.adapter!r}")
        folder = snapshot(source.path, source.revision, weights=False)
        tokenizer = tokenizers.read_tokenizer(Checkpoint(str(folder)))
        model = cls(NdifBackend.open(source.path, source.revision, tokenizer, dtype, True), tokenizer, source)
        model.framing = framing
        return model

    @classmethod
    def wrap(
        cls, hf_model: PreTrainedModel, tokenizer: Any, *, backend: str = "transformer_lens", check: bool = True
    ) -> Model:
        """A handle over a Hugging Face model in memory, which stays as it is.

        The handle has a module tree of its own whose parameters share the caller's memory (no copy), so
        training steps that write into them show here, and `swap` here changes nothing there. Compiled, data-parallel
        and PEFT models (and TRL's value heads) are taken apart; an adapter's layers stay inside, not merged.
        """
        hf_model = loading.unwrapped(hf_model)
        return cls._build(loading.own_copy(hf_model), tokenizer, backend, None, prove=check)

    @classmethod
    def _build(
        cls,
        hf_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        backend: str,
        source: Checkpoint | None,
        *,
        prove: bool,
    ) -> Model:
        ModelShape.of(hf_model.config)  # no text decoder: say so before anything is built on it
        reference = check.refer(hf_model) if prove else None
        model = cls(backends.wrap(backend, hf_model), tokenizer, source)
        model.reference = reference
        model.eos_ids = loading.eos_ids(hf_model, tokenizer)
        if prove:
            check.prove_closed(model)
            model._owe(check.prove_opened)
        return model

    def _owe(self, proofs: Callable[[Model], object] | None) -> None:
        """Proofs to run when attention is first looked into, without the edits then open; none: nothing is owed.

        That road needs TransformerLens, which takes seconds to import. The handle is held weakly: no circle keeps
        weights in memory.
        """
        held = weakref.ref(self)

        def owed() -> None:
            model = held()
            if model is not None and proofs is not None:
                edits, model._open = model._open, ()
                try:
                    proofs(model)
                finally:
                    model._open = edits

        self.backend.owed = owed if proofs is not None else None

    def swap(self, checkpoint: Checkpoint | str | Path, *, prove: bool = True, allow_pickle: bool = False) -> None:
        """Put another checkpoint in place, all of it, and prove that logits equal plain Hugging Face's.

        Tokenizer, chat template and end tokens become the new checkpoint's. Where configuration, buffers or
        quantisation differ, the model is built anew around its weights: what follows equals a fresh load.

        Raises:
            InputError: other shapes, or a tokenizer that gives other ids than this one.
            ProbeError: the logits are not those of the checkpoint.
        """
        source = Checkpoint.of(checkpoint)
        if self.backend.is_remote:
            raise InputError(
                "swap cannot run remotely (nothing was sent); load the other revision as a model of its own"
            )
        tokenizer = self._tokenizer_of(source)
        fresh = loading.read_model(source, replace(self.reading, allow_pickle=allow_pickle))
        plain = self.backend.plain
        fit.check_same_model(source, fresh, plain, self._label)
        anew = fit.differing(fresh, plain)
        weights = dict(fresh.named_parameters(remove_duplicate=False))
        if not anew:
            fit.check_same_shapes(source, weights, self.weights(), self._label)
        reference = check.refer(fresh) if prove else None
        eos_ids = loading.eos_ids(fresh, tokenizer)
        opened = not anew and self.backend.owed is None  # the road inside attention was proven with other weights
        with self._lock:
            if anew:
                self.backend = backends.wrap(self.backend_name, fresh)
                self.shape, self._sites = ModelShape.of(self.backend.config), self.backend.sites()
            else:
                self.backend.load_weights(weights)
            self.checkpoint, self.tokenizer, self.eos_ids = source, tokenizer, eos_ids
            self.reference = reference
            self._owe((check.prove_logits_opened if opened else check.prove_opened) if prove else None)
        if prove:
            (check.prove_closed if anew else check.prove_logits)(self)

    def _tokenizer_of(self, source: Checkpoint) -> Any:
        """The tokenizer to hold with `source`: its own, unless the files of the one held are the same."""
        held = self.checkpoint.tokenizer_fingerprint() if self.checkpoint else None
        if source.tokenizer_fingerprint() == held:
            return self.tokenizer
        return tokenizers.same_tokenizer(
            source, self.tokenizer, self._label, trust_remote_code=self.reading.trust_remote_code
        )

    @property
    def _label(self) -> str:
        return self.checkpoint.label if self.checkpoint else "the model held"

    @contextmanager
    def hugging_face(self, *edits: Edit) -> Generator[Any]:
        """A plain Hugging Face model of the same weights under these edits and those in force: `generate` and all else.

        `with model.hugging_face(add("resid_post.2", v)) as hf: hf.generate(**model.inputs("Once"))`. Edits reach every
        token, those of padding too, which nothing attends to.

        Raises:
            InputError: an edit of chosen positions, or at a site that is no side of a module.
        """
        if self.backend.is_remote:
            raise InputError("a model on a server has no Hugging Face module here; use model.generate")
        with edited_module(
            loading.sharing_copy(self.backend.plain), self.backend.map, [*self.open_edits, *edits], self.site
        ) as plain:
            yield plain

    def inputs(self, texts: Texts, template: Template | None = None) -> dict[str, Tensor]:
        """What a Hugging Face model takes for these texts: input_ids, attention_mask, position_ids, left-padded."""
        batch = self.batch(texts, template).to(self.device)
        return {"input_ids": batch.ids, "attention_mask": batch.mask.long(), "position_ids": batch.position_ids}

    def nnsight(self) -> Any:
        """nnsight's own model over the same weights: `with model.nnsight().trace(**model.inputs("Once")): ...`."""
        from probe.backends.nnsight import tracing

        return tracing(self.backend.plain)

    def __repr__(self) -> str:
        rows = [f"{name} {value}" for name, value in self._told()]
        return f"Model({', '.join(rows)})"

    def _repr_html_(self) -> str:
        sites = sorted({s.kind for s in self.sites()}, key=list(KINDS).index)
        return table([*self._told(), ("sites", ", ".join(sites))], ("model", ""))

    def _told(self) -> list[tuple[str, str]]:
        """What a person wants to know of it, in order."""
        s = self.shape
        heads = f"{s.n_heads}" + (f" ({s.n_kv_heads} key-value)" if s.n_kv_heads != s.n_heads else "")
        sizes = {"family": s.family, "layers": s.n_layers, "width": s.d_model, "heads": heads, "vocabulary": s.d_vocab}
        held = {"checkpoint": self._label, "dtype": str(self.dtype).removeprefix("torch."), "device": self.device}
        edits = {"open edits": len(self.open_edits)} if self.open_edits else {}
        return [(name, str(value)) for name, value in {**sizes, **held, **edits}.items()]
