"""Texts in: what a handle does with a text, a conversation or several, tokens and their strings beside every value."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

from probe.batches import Encoded, TokenBatch, padded
from probe.directions import Direction, Method, check_pairs, fitted, ordered
from probe.errors import InputError
from probe.handle import Handle, Logits
from probe.prompts import Prompts
from probe.texts import EXAMPLE, Text, Texts, asked, one_text
from probe.tokens import Template, tokenize, tokenize_prompts
from probe.views.attention import Attention
from probe.views.lens import Lens, lens_of
from probe.views.patching import Patched, patched
from probe.views.steering import How, Steered, steered_texts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from probe.doses import Dose
    from probe.interventions import Edit, Positions
    from probe.sites import Site
    from probe.trace import Trace


class ByText(Handle):
    """A handle that takes texts wherever it takes batches; rows are in the order given.

    A text is a string, or a conversation as chat templates take it, which goes through the model's template.
    """

    def batch(self, texts: Texts, template: Template | None = None) -> TokenBatch:
        """One left-padded batch of texts, in the order given; a batch as it is.

        Texts and conversations end where a continuation would begin; prompts are tokenised with their answers.

        Args:
            texts: a text, several, prompts or a batch.
            template: `chat` or `none`; by default `chat` for conversations and `none` for texts.

        Raises:
            InputError: an empty text, texts beside conversations, a text beyond the context, or what is neither.
        """
        if isinstance(texts, TokenBatch):
            return texts
        framed: dict[str, Any] = {**asdict(self.framing), "max_length": self.shape.n_ctx}
        if isinstance(texts, Prompts):
            encoded = tokenize(self.tokenizer, texts, template=template or "none", **framed)
        else:
            of = asked(texts)
            encoded = tokenize_prompts(self.tokenizer, of.prompts, template=template or of.template, **framed)
        return padded(_with_tokens(encoded), "left", self.pad_id)

    def run(
        self,
        batch: Texts,
        read: Site | str | Sequence[Site | str] = (),
        edits: Sequence[Edit] = (),
        logits: Logits = "all",
        *,
        grad: bool = False,
        template: Template | None = None,
    ) -> Trace:
        """One forward pass of a text, of several or of a batch; `run("Once upon a time", read="resid_post")`.

        Args:
            batch: a text, several, conversations, prompts, or one of `batches`.
            read: sites whose values to return, after any edits there; a kind alone (`resid_post`) is all its sites.
            edits: changes, applied in the given order where several share a site.
            logits: `all` [item pos vocab], `last` [item vocab] at each item's last prompt token, or
                `none`, which skips the unembedding.
            grad: keep the autograd graph.
            template: `chat` or `none`; by default conversations alone go through the chat template.

        Raises:
            InputError: no text, a site this family does not have, an edit that returns another shape.
            ProbeError: a site asked for was not passed exactly once.
        """
        return super().run(self.batch(batch, template), read, edits, logits, grad=grad)

    def logits(self, texts: Texts, *, template: Template | None = None) -> Float[Tensor, "item pos vocab"]:
        """Logits of the next token at every position; those of padding (on the left of shorter texts) mean nothing."""
        logits = self.run(texts, template=template).logits
        assert logits is not None
        return logits

    def lens(self, text: Text, *, top_k: int = 5, template: Template | None = None) -> Lens:
        """What every layer would say next at every position of one text (the logit lens); a table in a notebook.

        Args:
            text: one text, or turns of a conversation.
            top_k: most likely tokens kept at each position.
            template: whether it goes through the chat template; by default where it is turns.
        """
        return lens_of(self, self._one(text, "lens", template), top_k)

    def attention(
        self, text: Text, layer: int, *, heads: Sequence[int] | None = None, template: Template | None = None
    ) -> Attention:
        """Where the heads of a layer look in one text; `heads` chooses some of them.

        Args:
            text: one text, or turns of a conversation.
            layer: the block, from 0.
            heads: heads from 0, all by default.
            template: whether it goes through the chat template; by default where it is turns.

        Raises:
            InputError: no such layer or head, several texts.
        """
        site = self.site(f"pattern.{layer}")
        chosen = tuple(range(self.shape.n_heads) if heads is None else heads)
        for head in chosen:
            self.site(replace(site, head=head))
        trace = self.run(self._one(text, "attention", template), [site], logits="none")
        return Attention(layer, tuple(trace.tokens[0]), chosen, trace[site][0, list(chosen)].float().cpu())

    def patch(
        self,
        clean: Text,
        corrupt: Text,
        sites: str | Sequence[str] = "resid_post",
        *,
        answers: tuple[str, str] | None = None,
        template: Template | None = None,
    ) -> Patched:
        """How much of the clean text's answer each single value brings back into the run of the corrupt text.

        Args:
            clean: the text whose values are put in.
            corrupt: a text of as many tokens, which they are put into.
            sites: kinds of site: `resid_post`, `attn_out`, `mlp_out` give layer x position, `z` layer x head.
            answers: the two continuations whose logits are compared; by default what either text is continued with.
            template: `chat` or `none`; by default conversations alone go through the chat template.

        Raises:
            InputError: texts of unequal length in tokens, both continued alike, an unknown kind.
        """
        batches = (self._one(clean, "patch", template), self._one(corrupt, "patch", template))
        return patched(self, *batches, [sites] if isinstance(sites, str) else list(sites), answers)

    def direction(
        self,
        pairs: Sequence[tuple[Text, Text]],
        layer: int,
        *,
        method: Method = "mean difference",
        kind: str = "resid_post",
        template: Template | None = None,
    ) -> Direction:
        """What leads from the second text of each pair to the first, read at the last token of each.

        Args:
            pairs: (more, less): texts that differ in what is to be steered and in little else.
            layer: block.
            method: `mean difference`, `pca` of the differences, or `logistic` regression (see `directions.fitted`).
            kind: kind of site, in the residual stream or what a block writes into it.
            template: `chat` or `none`; by default conversations alone go through the chat template.

        Raises:
            InputError: what is no list of pairs, sides that do not differ, no such site.
        """
        check_pairs(pairs)
        site = self.site(f"{kind}.{layer}")
        more, less = (self._last_states([pair[n] for pair in pairs], site, template) for n in (0, 1))
        record = {
            "model": str(self.checkpoint.label if self.checkpoint else "in memory"), "fingerprint": self.fingerprint(),
            "method": method, "n": len(pairs), "ordered": ordered(more, less, method),
            "pairs": [list(pair) for pair in pairs], "template": template,
        }  # fmt: skip
        vector = fitted(more, less, method)
        return Direction(vector, site, {**record, "norm": float(vector.norm())})

    def _last_states(self, texts: Sequence[Text], site: Site, template: Template | None) -> Float[Tensor, "text d"]:
        batch = self.batch(list(texts), template)
        return self.run(batch, [site], logits="none")[site][:, -1].float().cpu()

    def transferred(self, direction: Direction, *, refit: bool = False) -> Direction:
        """A direction of another checkpoint for this one: the same vector, or found anew from the same texts.

        The cosine to the first one stays in the record (1 for the same vector).

        Raises:
            InputError: a site or width this model does not have, `refit` of a direction without texts.
        """
        site = self.site(direction.site)
        if len(direction.vector) != self.shape.d_model:
            raise InputError(f"a direction of width {len(direction.vector)}; this model's is {self.shape.d_model}")
        found, record = direction, direction.record
        if refit:
            if "pairs" not in record:
                raise InputError("refit=True: this direction's record holds no pairs of texts to find it from")
            pairs = [(more, less) for more, less in record["pairs"]]
            found = self.direction(
                pairs, site.layer or 0, method=record["method"], kind=site.kind, template=record["template"]
            )
        moved = {"from": record.get("model"), "cosine": found.cosine(direction)}
        here = str(self.checkpoint.label if self.checkpoint else "in memory")
        return replace(found, record={**found.record, "model": here, "transferred": moved})

    @contextmanager
    def steered(self, dose: Dose, strength: float = 1.0, positions: Positions = "all") -> Generator[Self]:
        """Within the block every run and generation is steered; nothing remains afterwards.

        Args:
            dose: a direction or neurons.
            strength: how much of it; 0 of a direction changes nothing.
            positions: which positions are changed.
        """
        with self.edited(*dose.edits(strength, positions)):
            yield self

    def steer(
        self,
        prompt: Text,
        dose: Dose,
        strengths: Sequence[float] = (-2.0, 0.0, 2.0),
        *,
        max_new_tokens: int = 32,
        target: str = "",
        draws: int = 1,
        seed: int = 0,
        template: Template | None = None,
    ) -> Steered:
        """Greedy completions of one prompt at every strength, and under placebos of the same size.

        Args:
            prompt: what is continued.
            dose: a direction, or `Neurons`.
            strengths: multiples of the direction, factors of the neurons; the one that changes nothing is added.
            max_new_tokens: most tokens per completion.
            target: a continuation whose log-probability is measured too.
            draws: of each placebo.
            seed: of the placebos.
            template: `chat` or `none`; by default conversations alone go through the chat template.

        Raises:
            InputError: strengths that are not finite, a target that has no token of its own behind the prompt.
        """
        batch = self._one(prompt, "steer", template)
        item = batch.items[0]
        wanted = None
        if target:
            with_answer = Prompts((replace(item, answer=target),), "target")
            wanted = self.batch(with_answer, template or asked(prompt).template)
        how = How(max_new_tokens, draws, seed, template, wanted)
        found = steered_texts(self, prompt, dose, strengths, batch, how)
        return Steered(item.prompt, dose.name, tuple(found), dose.site, target)

    def _one(self, text: Text, call: str, template: Template | None) -> TokenBatch:
        return self.batch(one_text(text, call), template)


def _with_tokens(encoded: Sequence[Encoded]) -> Sequence[Encoded]:
    bare = [e.item.prompt for e in encoded if not e.ids]
    if bare:
        raise InputError(f"text {bare[0]!r} has no token under this tokenizer; expected at least one, as in {EXAMPLE}")
    return encoded
