"""What both backends share: a plain Hugging Face model, its places, its head and its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe.backends import Rows, Tokens, Visit
from probe.backends.places import adapter_of, places, residual_kinds
from probe.checkpoints.loading import offloaded
from probe.errors import InputError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class HuggingFaceBackend:
    """A plain Hugging Face model and where its sites are; a backend adds how a pass is visited (`forward`)."""

    is_remote = False

    def __init__(self, hf_model: Any) -> None:
        self.plain: Any = hf_model
        self.config: Any = hf_model.config
        self._parameters: dict[str, nn.Parameter] = dict(hf_model.named_parameters(remove_duplicate=False))
        self._places = places(hf_model)
        self._norm: nn.Module = hf_model.get_submodule(self._places[Site("ln_final")].path)
        self._unembed: nn.Module = hf_model.get_output_embeddings()

    def module_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no post-norm in between)."""
        found = residual_kinds(adapter_of(self.plain).component_mapping["blocks"])
        names = {k for k, (component, side) in found.items() if side == "out" and component in ("", "attn", "mlp")}
        return frozenset(site for site in self._places if site.kind in names)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return self.plain.dtype

    @property
    def device(self) -> torch.device:
        """Where inputs are put."""
        return self.plain.get_input_embeddings().weight.device

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> Float[Tensor, "item pos d_model"]:
        """Each backend's own."""
        raise NotImplementedError

    def run(self, tokens: Tokens, visits: Mapping[Site, Visit], rows: Rows) -> Tensor | None:
        """Logits [item pos vocab], [item vocab] at `rows`, or None (the unembedding is not computed)."""
        hidden = self.forward(tokens, visits)
        if rows is None:
            return None
        return self.head(hidden if isinstance(rows, str) else hidden[torch.arange(len(hidden)), rows.to(hidden.device)])

    def new_cache(self) -> Any:
        """An empty key-value cache (sliding layers keep what they need)."""
        from transformers import DynamicCache

        return DynamicCache(config=self.config)

    def head(self, hidden: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
        """Logits of normed hidden states, the family's soft cap included."""
        return _capped(self._unembed(hidden), getattr(self.config, "final_logit_softcapping", None))

    def final_norm(self, resid: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """The final norm, its statistics recomputed from `resid`."""
        return self._norm(resid)

    def kept_head(self) -> Callable[[Tensor], Tensor]:
        """Residual states to logits by copies of the final norm and the unembedding."""
        norm, unembed = copy.deepcopy((self._norm, self._unembed))
        cap, dtype = getattr(self.config, "final_logit_softcapping", None), self.dtype

        def logits_of(resid: Tensor) -> Tensor:
            with torch.no_grad():
                return _capped(unembed(norm(resid.to(dtype))), cap)

        return logits_of

    def unembed_weights(self) -> tuple[Tensor, Tensor | None]:
        """W_U [d_model, vocab] as a view, and the bias if there is one."""
        bias: Tensor | None = getattr(self._unembed, "bias", None)
        weight: Tensor = self._unembed.weight  # pyright: ignore[reportAssignmentType]
        return weight.detach().T, None if bias is None else bias.detach()

    def weights(self) -> dict[str, Tensor]:
        """The parameters under their Hugging Face names (views).

        Raises:
            InputError: some are offloaded: there is nothing to view, and what is written there would be lost.
        """
        away = offloaded(self.plain)
        if away:
            raise InputError(
                f"{len(away)} parameters are offloaded (e.g. {away[0]}): weights cannot be read or changed, nor "
                "checkpoints swapped; use a device map without cpu and disk beside an accelerator, or `--hold one`"
            )
        return dict(self._parameters)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Put other weights of the same shapes in place (no copy: the parameters take over the memory)."""
        for name, parameter in self._parameters.items():
            parameter.data = weights[name].data


def _capped(logits: Tensor, cap: float | None) -> Tensor:
    return logits if cap is None else torch.tanh(logits / cap) * cap
