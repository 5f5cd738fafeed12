"""The remote road: the same sites on a model that lives on a server (NDIF), through nnsight's remote traces.

Only what a trace can carry goes there: reads, and edits whose function is made of torch alone. All else
is refused here, before anything is sent. The server's weights are not ours to prove: the proofs of
`probe.check` do not run.
"""

from __future__ import annotations

import copy
import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch

from probe.backends.place import Map, Place
from probe.backends.places import places
from probe.backends.protocol import Rows, Tokens, Visit
from probe.backends.visits import Visitor
from probe.errors import InputError, ProbeError
from probe.interventions import Edit
from probe.sites import INSIDE_ATTENTION, Site

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

_ON_SERVER = ("torch", "numpy", "transformers", "accelerate", "einops", "peft", "nnsight", "cloudpickle")


class NdifBackend:
    """A model known here by its configuration only (`meta` tensors). `remote`: True sends; `local` rehearses."""

    name = "nnsight"
    is_remote = True
    owed: Callable[[], object] | None = None

    def __init__(self, model: Any, remote: Literal[True, "local"]) -> None:
        self._tree = model
        self._remote = remote
        hf_model = model._module
        self.config: Any = hf_model.config
        self.map: Map = places(hf_model)
        # What a trace on the server is written out for: no flattened, scaled or second tensor of a module.
        plain = {s: p for s, p in self.map.places.items() if not p.flat and p.factor == 1.0 and not p.index}
        self._places = {s: p for s, p in plain.items() if p.layout != "picked" or p.n_heads}
        self._type: torch.dtype = hf_model.dtype

    @classmethod
    def open(
        cls,
        repo: str,
        revision: str | None,
        tokenizer: PreTrainedTokenizerBase,
        dtype: str,
        remote: Literal[True, "local"],
    ) -> Any:
        """The backend of a repository the server holds; no weights are fetched."""
        from nnsight import TransformersModel

        # nnsight sets the padding side of the tokenizer it is given.
        options: dict[str, object] = {"tokenizer": copy.deepcopy(tokenizer), "task": "text-generation"}
        options |= {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
        return cls(TransformersModel(repo, revision=revision, **options), remote)

    @property
    def dtype(self) -> torch.dtype:
        """Type the server's weights are asked for in."""
        return self._type

    @property
    def device(self) -> torch.device:
        """Where results arrive."""
        return torch.device("cpu")

    def sites(self) -> frozenset[Site]:
        """Every site of the family but `logits`, which is what a run returns."""
        inside = [Site(k, n) for k in INSIDE_ATTENTION for n, door in self.map.doors.items() if not door.has_sink]
        return frozenset({*self._places, *inside})

    def why_absent(self, site: Site) -> str | None:
        """Why the model has no such site, or why it cannot be had remotely."""
        if site in self.map.places:
            return "it is not read remotely (its tensor lies flattened or scaled in its module)"
        return self.map.absent.get(site)

    def module_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name."""
        return self.map.own_outputs()

    def run(self, tokens: Tokens, visits: Mapping[Site, Visit], rows: Rows) -> Float[Tensor, ...] | None:
        """Logits (all, at one row per item, or None); what is read is put into its visitor.

        Raises:
            InputError: an edit the server could not run; nothing was sent.
        """
        plan = [self._step(s, visits[s]) for s in sorted(visits, key=self._order)]
        values, logits = self._trace(tokens, [step for _, step in plan], rows)
        for (visitor, _), value in zip(plan, values, strict=True):
            visitor.count += 1
            visitor.seen = value
        return logits

    def _step(self, site: Site, visit: Visit) -> tuple[Visitor, dict[str, Any]]:
        if not isinstance(visit, Visitor):
            raise ProbeError(f"{site}: a remote visit must be a Visitor; got {type(visit).__name__}")
        edits = [_sendable(edit, mask) for edit, mask in visit.edits if mask is not None]
        inside = site.kind if site.kind in INSIDE_ATTENTION else ""
        place = Place(self.map.doors[int(site.layer or 0)].path, "in") if inside else self._places[site]
        step = {"path": place.path, "side": place.side, "layout": place.layout, "heads": place.n_heads}
        return visit, step | {"columns": place.columns, "inside": inside, "edits": edits, "keep": visit.keep}

    def _order(self, site: Site) -> tuple[int, int]:
        if site.kind in INSIDE_ATTENTION:  # just before the heads are mixed
            return (self.map.order[Site("z", site.layer)] - 1, 1 + INSIDE_ATTENTION.index(site.kind))
        return (self.map.order[site], 0)

    def _trace(self, tokens: Tokens, steps: Sequence[dict[str, Any]], rows: Rows) -> tuple[list[Any], Any]:
        """One trace, written out in plain torch: nothing of this package exists on the server."""
        import nnsight

        inputs = {"input_ids": tokens.ids, "attention_mask": tokens.mask.long(), "position_ids": tokens.position_ids}
        index = torch.empty(0) if isinstance(rows, str) or rows is None else rows
        want = rows if isinstance(rows, str) or rows is None else "rows"
        model, remote = self._tree, self._remote
        for step in steps:
            if step["inside"]:
                _ = model.get(step["path"]).source  # too late once that forward runs
        with torch.no_grad(), model.trace(inputs, use_cache=False, remote=remote):
            values = nnsight.save([])
            opened = {}
            for step in steps:
                envoy, side = model.get(step["path"]), step["side"]
                if step["inside"]:
                    if step["path"] not in opened:
                        opened[step["path"]] = envoy.source.attention_interface_1.source.nn_functional_softmax_0
                    envoy, side = opened[step["path"]], "in" if step["inside"] == "attn_scores" else "out"
                whole = envoy.input if side == "in" else envoy.output
                raw = whole[0] if isinstance(whole, tuple) else whole
                x = raw
                if step["layout"] == "heads_first":
                    x = raw.transpose(1, 2)
                elif step["layout"] == "picked":
                    x = raw[..., step["columns"]].unflatten(-1, (step["heads"], -1))
                elif step["layout"] == "split":
                    x = raw.unflatten(-1, (step["heads"], -1))
                for function, mask, head, axis in step["edits"]:
                    part = x if head is None else x.select(axis, head)
                    chosen = torch.where(mask, function(part).to(part.dtype), part)
                    x = chosen if head is None else x.select_scatter(chosen, axis, head)
                values.append(x if step["keep"] else None)
                if step["edits"]:
                    if step["layout"] == "heads_first":
                        new = x.transpose(1, 2)
                    elif step["layout"] == "picked":
                        new = raw.index_copy(-1, step["columns"], x.flatten(-2))
                    elif step["layout"] == "in_place":
                        new = raw.copy_(x)
                    else:
                        new = x.flatten(-2) if step["layout"] == "split" else x
                    if side == "in":
                        envoy.input = new
                    else:
                        envoy.output = (new, *whole[1:]) if isinstance(whole, tuple) else new
            logits = nnsight.save(None)
            if want == "all":
                logits = nnsight.save(model.output.logits)
            elif want == "rows":
                logits = nnsight.save(model.output.logits[torch.arange(len(index)), index])
        return list(values), logits

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"{what} cannot run remotely (nothing was sent); load the model here, without remote=")

    def forward(self, tokens: Tokens, visits: Mapping[Site, Visit]) -> NoReturn:  # noqa: ARG002
        """Refused: hidden states stay on the server; `run` returns logits."""
        self._refuse("generation")

    def new_cache(self) -> NoReturn:
        """Refused."""
        self._refuse("generation")

    def head(self, hidden: Tensor) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse("the unembedding of other states (logit lens)")

    def final_norm(self, resid: Tensor) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse("the final norm of other states")

    def unembed_weights(self) -> NoReturn:
        """Refused."""
        self._refuse("reading the unembedding's weights")

    def weights(self) -> NoReturn:
        """Refused."""
        self._refuse("reading or changing weights")

    def load_weights(self, weights: Mapping[str, Tensor]) -> NoReturn:  # noqa: ARG002
        """Refused."""
        self._refuse("swapping weights")

    @property
    def plain(self) -> NoReturn:
        """Refused."""
        self._refuse("the replay engine")


def _sendable(edit: Edit, mask: Tensor) -> tuple[Any, Tensor, int | None, int]:
    """The edit as plain values, its function proven to load where only the server's libraries exist."""
    from nnsight.intervention import serialization
    from nnsight.ndif import pull_env

    def check(module: str, what: str) -> None:
        root = module.partition(".")[0]
        if root not in _ON_SERVER and root not in sys.stdlib_module_names:
            raise InputError(
                f"edit at {edit.site}: its function needs {what}, which the server does not have (nothing was "
                "sent); write it with torch alone"
            )

    def module(name: str) -> Any:
        check(name, name)
        return importlib.import_module(name)

    class Guard(serialization.CustomCloudUnpickler):
        def find_class(self, module_name: str, name: str) -> Any:
            check(module_name, f"{module_name}.{name}")
            return module if name == "subimport" else super().find_class(module_name, name)

    pull_env()
    try:
        blob = serialization.dumps(edit.function)
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(f"edit at {edit.site}: its function cannot be sent ({error})") from error
    Guard(io.BytesIO(blob), {}).load()
    site = edit.site
    shape = [1] * (len(site.dims))
    shape[0], shape[site.dims.index("pos")] = mask.shape
    axis = site.head_dim if site.head is not None else 0
    return edit.function, mask.view(shape), site.head, axis
