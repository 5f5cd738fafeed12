"""Model: the handle over a backend. Load, swap weights, tokenize, run with reads and edits, unembed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from probe import backends, check, families, finite
from probe.backends.visits import Visitor, check_passed, visitors
from probe.batches import refuse_mixed
from probe.checkpoints import fit, tokenizers
from probe.checkpoints import loading as huggingface
from probe.checkpoints.series import Checkpoint
from probe.dtypes import dtype_named
from probe.errors import InputError
from probe.generation import Completion, Sampling, generate
from probe.interventions import Edit
from probe.shape import ModelShape
from probe.sites import KINDS, Site, is_module_spelling
from probe.tokens import Framing, plan, tokenize

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.prompts import Prompts
    from probe.tokens import Boundary, Padding, Template, TokenBatch

Logits = Literal["all", "none", "last"]


@dataclass(frozen=True)
class Trace:
    """What a run gave: the logits asked for and the values at each site read (after any edit there)."""

    logits: Tensor | None
    activations: dict[Site, Tensor] = field(default_factory=dict[Site, "Tensor"])

    def __getitem__(self, site: Site | str) -> Tensor:
        key = Site.parse(site)
        if key not in self.activations:
            raise InputError(f"{key} was not read in this run; read were: {', '.join(map(str, self.activations))}")
        return self.activations[key]


class Model:
    """A model one can read, edit and unembed. Its only state is its weights (`swap`) and open edits."""

    def __init__(self, backend: backends.Backend, tokenizer: Any, checkpoint: Checkpoint | None = None) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.shape = ModelShape.of(backend.config)
        self.reference: check.Reference | None = None
        self.reading = huggingface.Reading(dtype=str(self.dtype).removeprefix("torch."), device=str(self.device))
        self.eos_ids: frozenset[int] = frozenset({tokenizer.eos_token_id} - {None})
        self._sites = backend.sites()
        self.framing = Framing()
        self._open: tuple[Edit, ...] = ()
        self._lock = threading.RLock()

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
        template_options: Mapping[str, Any] | None = None,
    ) -> Model:
        """The model of a checkpoint, with raw weights (nothing folded or centred).

        Args:
            checkpoint: a model folder, an adapter's folder, a Hub repository, or a `Checkpoint`.
            backend: `transformer_lens` or `nnsight`.
            dtype: `float32`, `bfloat16` or `float16` (`fp32`, `bf16`, `fp16`).
            device: a torch device.
            check: run the proofs of `probe.check` (a handful of tiny forward passes).
            allow_pickle: read `pytorch_model.bin` (with `weights_only`); off, because a pickle runs code.
            trust_remote_code: let transformers run code from the checkpoint; off.
            revision: a Hub revision.
            attn_implementation: transformers' attention kernel (`eager`, `sdpa`, ...).
            device_map: spread the model over devices, as transformers takes it (`auto`, or a map of modules to
                devices, `cpu` or `disk`); embedding, final norm and head stay where they can be read.
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
        reading = huggingface.Reading(dtype, device, attn_implementation, device_map, allow_pickle, trust_remote_code)
        tokenizer = tokenizers.read_tokenizer(source, trust_remote_code=trust_remote_code)
        model = cls._build(huggingface.read_model(source, reading), tokenizer, backend, source, prove=check)
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
    def wrap(cls, hf_model: Any, tokenizer: Any, *, backend: str = "transformer_lens", check: bool = True) -> Model:
        """A handle over a Hugging Face model in memory, which stays as it is.

        The handle has a module tree of its own whose parameters share the caller's memory (no copy), so
        training steps that write into them show here, and `swap` here changes nothing there. Compiled, data-parallel
        and PEFT models (and TRL's value heads) are taken apart; an adapter's layers stay inside, not merged.
        """
        hf_model = huggingface.unwrapped(hf_model)
        return cls._build(huggingface.own_copy(hf_model), tokenizer, backend, None, prove=check)

    @classmethod
    def _build(cls, hf_model: Any, tokenizer: Any, backend: str, source: Checkpoint | None, *, prove: bool) -> Model:
        ModelShape.of(hf_model.config)  # no text decoder: say so before anything is built on it
        reference = check.refer(hf_model) if prove else None
        model = cls(backends.wrap(backend, hf_model), tokenizer, source)
        model.reference = reference
        model.eos_ids = huggingface.eos_ids(hf_model, tokenizer)
        if prove:
            check.prove(model)
        return model

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.backend.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs are put."""
        return self.backend.device

    @property
    def backend_name(self) -> str:
        """Name of the backend."""
        return self.backend.name

    def weights(self) -> dict[str, Tensor]:
        """The parameters under their Hugging Face names (views: writing into them changes the model)."""
        return self.backend.weights()

    @property
    def open_edits(self) -> tuple[Edit, ...]:
        """Edits in force through `edited`."""
        return self._open

    def fingerprint(self) -> str:
        """Hex hash of weights, tokenizer, dtype, backend and kind of device."""
        return check.fingerprint(self)

    def sites(self, kind: str | None = None) -> list[Site]:
        """The sites of this family, in the order of the pass; of one kind if named."""
        if kind is not None and kind not in KINDS:
            raise InputError(f"unknown site kind {kind!r}; kinds are: {', '.join(KINDS)}")
        return sorted(s for s in self._sites if kind in (None, s.kind))

    def site(self, site: Site | str) -> Site:
        """The site a text names, which must exist in this model."""
        found = Site.parse(site)
        if found.whole not in self._sites:
            kinds = sorted({s.kind for s in self._sites}, key=list(KINDS).index)
            raise InputError(
                f"{found} does not exist in this {self.shape.family} model of {self.shape.n_layers} blocks (0 to "
                f"{self.shape.n_layers - 1}); its kinds of site are: {', '.join(kinds)}"
                + (f". {why}" if (why := self.backend.why_absent(found.whole)) else "")
            )
        if isinstance(site, str) and is_module_spelling(site) and found.whole not in self.backend.module_outputs():
            raise InputError(
                f"{site!r}: in {self.shape.family} a norm follows that module, so its output is not what is added "
                f"to the residual stream; write {found} for the contribution"
            )
        heads = self.shape.n_kv_heads if found.kind in ("k", "v") else self.shape.n_heads
        if found.head is not None and found.head >= heads:
            raise InputError(f"{found}: this model has {heads} heads there (0 to {heads - 1})")
        return found

    def batches(
        self,
        prompts: Prompts,
        *,
        batch_size: int = 8,
        template: Template = "none",
        boundary: Boundary = "joint",
        bos: bool | None = None,
        include_eos: bool = False,
        padding: Padding = "left",
    ) -> list[TokenBatch]:
        """The prompts as padded batches for this tokenizer and context (see `probe.tokens`)."""
        encoded = tokenize(
            self.tokenizer,
            prompts,
            template=template,
            boundary=boundary,
            bos=self.framing.bos if bos is None else bos,
            template_options=self.framing.template_options,
            include_eos=include_eos,
            max_length=self.shape.n_ctx,
        )
        return plan(encoded, batch_size, padding, self.pad_id, self.turn)

    @property
    def turn(self) -> int | None:
        """Length that items of one batch must all be within or all be beyond (see `probe.families.frequency_turn`)."""
        return families.frequency_turn(self.backend.config)

    @property
    def pad_id(self) -> int:
        """Id that fills padding (never attended to)."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(i for i in ids if i is not None)

    def run(
        self,
        batch: TokenBatch,
        read: Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        logits: Logits = "all",
        *,
        grad: bool = False,
    ) -> Trace:
        """One forward pass.

        Args:
            batch: from `batches`.
            read: sites whose values to return, after any edits there.
            edits: changes, applied in the given order where several share a site.
            logits: `all` [item pos vocab], `last` [item vocab] at each item's last prompt token, or
                `none`, which skips the unembedding.
            grad: keep the autograd graph.

        Raises:
            InputError: a site this family does not have, an edit that returns another shape.
            ProbeError: a site asked for was not passed exactly once.
        """
        batch = batch.to(self.device)
        refuse_mixed(batch, self.turn)
        wanted = [self.site(s) for s in read]
        visits = visitors(wanted, [*self._open, *edits], batch, self.site, keep_graph=grad)
        final = visits.pop(Site("logits"), None)
        if final is not None and logits != "all":
            raise InputError(f"the site 'logits' was asked for with logits={logits!r}; use logits='all'")
        with self._lock, nullcontext() if grad else torch.no_grad():
            tokens = backends.Tokens(batch.ids, batch.mask, batch.position_ids)
            out = self.backend.run(tokens, visits, self._rows(batch, logits))
            if final is not None and out is not None:
                changed = final(out)
                out = out if changed is None else changed
        everything = visits if final is None else {**visits, Site("logits"): final}
        # Blocks may compute on several devices; what is read off them is put side by side.
        read_off = {site: value.to(self.device) for site, value in _collect(wanted, everything).items()}
        out = None if out is None else out.to(self.device)
        try:
            finite.require_run(self, batch, read_off, out, logits, bool(self._open or edits))
        except finite.NotFiniteError:
            with self._lock:
                finite.require_stream(self, tokens, batch, [*self._open, *edits])
            raise
        return Trace(out, read_off)

    def _rows(self, batch: TokenBatch, which: Logits) -> backends.Rows:
        if which not in ("all", "last", "none"):
            raise InputError(f"logits={which!r}; expected 'all', 'last' or 'none'")
        return "all" if which == "all" else batch.last_prompt if which == "last" else None

    def unembed(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of residual states by the model's own head: final norm recomputed, soft cap included.

        This is the logit lens; `attribution` forms with a frozen norm scale are another thing. They lie where
        `resid` does, also where the model is spread over devices.
        """
        with torch.no_grad():
            return self.backend.head(self.backend.final_norm(resid.to(self.dtype))).to(resid.device)

    def final_norm(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final norm of residual states, its statistics recomputed."""
        with torch.no_grad():
            return self.backend.final_norm(resid.to(self.dtype)).to(resid.device)

    def kept_head(self) -> Callable[[Tensor], Tensor]:
        """`unembed` with a copy of the norm and head as they are now: it outlives a swap and the model itself."""
        return self.backend.kept_head()

    def unembed_weights(self) -> tuple[Float[Tensor, "d_model vocab"], Float[Tensor, " vocab"] | None]:
        """W_U as a view and its bias, or None."""
        return self.backend.unembed_weights()

    @contextmanager
    def edited(self, *edits: Edit) -> Generator[Model]:
        """Within the block every run and generation is edited; nothing remains afterwards."""
        before = self._open
        self._open = (*before, *edits)
        try:
            yield self
        finally:
            self._open = before

    def generate(
        self,
        prompts: Prompts | Sequence[str] | TokenBatch,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        n_samples: int = 1,
        batch_size: int = 32,
        template: Template = "none",
    ) -> list[Completion]:
        """Continuations of prompts, in their order and then by sample, under edits if any.

        Args:
            prompts: items, texts, or a batch (its answers are left out).
            edits: changes; see `Edit` for which tokens they reach.
            max_new_tokens: most tokens per continuation.
            temperature: 0 is greedy; else tokens are drawn from softmax(logits / temperature).
            top_p: draw from the smallest set of tokens with this much probability.
            seed: seeds one stream per (item, sample): the other items of a batch do not change a sample.
            stop: texts that end a continuation (left out of its text).
            n_samples: continuations per prompt.
            batch_size: prompts computed together.
            template: `chat` puts prompts through the chat template.

        Raises:
            InputError: a prompt that with the new tokens exceeds the context (by id), bad options.
        """
        how = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop), n_samples)
        with self._lock, torch.inference_mode():
            return generate(self, prompts, [*self._open, *edits], how, batch_size, template)

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
        fresh = huggingface.read_model(source, replace(self.reading, allow_pickle=allow_pickle))
        plain = self.backend.plain
        fit.check_same_model(source, fresh, plain, self._label)
        anew = fit.differing(fresh, plain)
        weights = dict(fresh.named_parameters(remove_duplicate=False))
        if not anew:
            fit.check_same_shapes(source, weights, self.weights(), self._label)
        reference = check.refer(fresh) if prove else None
        eos_ids = huggingface.eos_ids(fresh, tokenizer)
        with self._lock:
            if anew:
                self.backend = backends.wrap(self.backend_name, fresh)
                self.shape, self._sites = ModelShape.of(self.backend.config), self.backend.sites()
            else:
                self.backend.load_weights(weights)
            self.checkpoint, self.tokenizer, self.eos_ids = source, tokenizer, eos_ids
            self.reference = reference
        if prove:
            (check.prove if anew else check.prove_logits)(self)

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


def _collect(wanted: Sequence[Site], visits: Mapping[Site, Visitor]) -> dict[Site, Tensor]:
    check_passed(visits)
    return {site: visits[site.whole].value(site) for site in wanted}
