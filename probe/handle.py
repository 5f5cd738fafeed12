"""Handle: a backend with its tokenizer. Tokenize, run with reads and edits, generate, unembed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, Self

import torch

from probe import backends, check, families, finite, identity, shared
from probe.backends.visits import Visitor, check_passed, visitors
from probe.batches import refuse_mixed
from probe.checkpoints.loading import Reading
from probe.checkpoints.quantised import mixes_items
from probe.errors import InputError
from probe.generation import generate
from probe.interventions import Edit
from probe.sampling import Sampling
from probe.shape import ModelShape
from probe.sites import GLOBAL_KINDS, KINDS, Site, is_module_spelling
from probe.stream import OnText
from probe.tokens import Framing, plan, tokenize
from probe.trace import Trace

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.checkpoints.series import Checkpoint
    from probe.completions import Completions
    from probe.prompts import Prompts
    from probe.served import Served
    from probe.texts import Texts
    from probe.tokens import Boundary, Padding, Template, TokenBatch

Logits = Literal["all", "none", "last"]


class Handle:
    """A model one can read, edit and unembed, in batches of tokens. `Model` adds texts, loading and swapping."""

    def __init__(self, backend: backends.Backend, tokenizer: Any, checkpoint: Checkpoint | None = None) -> None:
        self.backend = backend
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        self.shape = ModelShape.of(backend.config)
        self.reference: check.Reference | None = None
        self.reading = Reading(dtype=str(self.dtype).removeprefix("torch."), device=str(self.device))
        self.eos_ids: frozenset[int] = frozenset({tokenizer.eos_token_id} - {None})
        self._sites = backend.sites()
        self.framing = Framing()
        self.server: Served | None = None  # who generates in its place (`probe.served`)
        self._open: tuple[Edit, ...] = ()
        self._lock = threading.RLock()

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
        return identity.fingerprint(self)

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
        """The prompts as padded batches for this tokenizer and context (see `probe.tokens`).

        Args:
            prompts: the items.
            batch_size: items in a batch.
            template: whether prompts go through the chat template.
            boundary: how prompt and answer are joined.
            bos: put BOS before, or not; None as the handle does.
            include_eos: end each answer with the end token.
            padding: side on which it is padded.
        """
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
        return plan(encoded, self.at_once(batch_size), padding, self.pad_id, self.turn)

    def at_once(self, batch_size: int) -> int:
        """Items to put into one batch: `batch_size`, or 1 where an item's numbers depend on its neighbours."""
        mixed = not self.backend.is_remote and mixes_items(self.backend.plain)
        return min(batch_size, 1) if mixed else batch_size

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
        read: Site | str | Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        logits: Logits = "all",
        *,
        grad: bool = False,
    ) -> Trace:
        """One forward pass.

        Args:
            batch: from `batches`.
            read: sites whose values to return, after any edits there; a kind alone (`resid_post`) is all its sites.
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
        wanted = [s for named in ([read] if isinstance(read, str | Site) else read) for s in self._named(named)]
        every, passes = [*self._open, *edits], shared.current()
        if passes is None or grad or logits != "none" or not all(edit.looks for edit in every):
            read_off, out = self._pass(batch, wanted, every, logits, grad=grad)
        else:
            make: shared.Make = lambda sites: self._pass(batch, sites, every, logits, grad=False)[0]  # noqa: E731
            read_off, out = passes.read(self, batch, wanted, make, must=bool(every)), None
        try:
            finite.require_run(self, batch, read_off, out, logits, bool(self._open or edits))
        except finite.NotFiniteError:
            with self._lock:
                finite.require_stream(self, batch, every)
            raise
        return Trace(out, read_off, batch, self.tokenizer)

    def _pass(
        self, batch: TokenBatch, wanted: Sequence[Site], edits: Sequence[Edit], logits: Logits, *, grad: bool
    ) -> tuple[dict[Site, Tensor], Tensor | None]:
        """Values at the sites, and logits, of one pass."""
        visits = visitors(wanted, edits, batch, self.site, keep_graph=grad)
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
        return read_off, None if out is None else out.to(self.device)

    def _named(self, named: Site | str) -> list[Site]:
        """The site a text names, or all sites of a kind of which each block has one."""
        of_blocks = named in KINDS and named not in GLOBAL_KINDS
        return (self.sites(str(named)) if of_blocks else []) or [self.site(named)]

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

    @property
    def last_state(self) -> Site:
        """The site whose rows `logits_of` turns into logits: the last residual state, or, in a model of several
        streams (Gemma 3n), what the final norm makes of them."""
        last = Site("resid_post", self.shape.n_layers - 1)
        return last if last in self._sites else Site("ln_final")

    def logits_of(self, state: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of rows of `last_state`, soft cap included."""
        if self.last_state.kind != "ln_final":
            return self.unembed(state)
        with torch.no_grad():
            return self.backend.head(state.to(self.dtype)).to(state.device)

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
    def edited(self, *edits: Edit) -> Generator[Self]:
        """Within the block every run and generation is edited; nothing remains afterwards."""
        before = self._open
        self._open = (*before, *edits)
        try:
            yield self
        finally:
            self._open = before

    def generate(
        self,
        prompts: Texts,
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        n_samples: int = 1,
        batch_size: int | None = None,
        template: Template | None = None,
        on_text: OnText | None = None,
    ) -> Completions:
        """Continuations of prompts, in their order and then by sample, under edits if any.

        Args:
            prompts: a text or several, conversations, items, or a batch (its answers are left out).
            edits: changes; see `Edit` for which tokens they reach.
            max_new_tokens: most tokens per continuation.
            temperature: 0 is greedy; else tokens are drawn from softmax(logits / temperature).
            top_p: draw from the smallest set of tokens with this much probability.
            seed: seeds one stream per (item, sample): the other items of a batch do not change a sample.
            stop: texts that end a continuation (left out of its text).
            n_samples: continuations per prompt.
            batch_size: prompts computed together (others join as theirs end); by default as many as make 256 rows
                of at most 2 GiB.
            template: `chat` puts prompts through the chat template; by default conversations alone go through it.
            on_text: called after every token with the texts so far, to show them while they are written; not by a
                server.

        Raises:
            InputError: a prompt that with the new tokens exceeds the context (by id), bad options.
        """
        how = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop), n_samples)
        with self._lock, torch.inference_mode():
            return generate(self, prompts, [*self._open, *edits], how, batch_size, template, on_text)


def _collect(wanted: Sequence[Site], visits: Mapping[Site, Visitor]) -> dict[Site, Tensor]:
    check_passed(visits)
    return {site: visits[site.whole].value(site) for site in wanted}
