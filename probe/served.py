"""Generation by a server that speaks OpenAI's completions (vLLM, SGLang, llama.cpp, `transformers serve`).

Prompts go as token ids where the server takes them, else as text; every text is proved to be this checkpoint's before
any is used: eight prompts are answered greedily by the server and by the model here. Servers round in their own way,
so texts of both may differ after a near tie: what is compared, and how well it agreed, is told with the result.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from probe.batches import Encoded, padded
from probe.completions import Completion, Finish
from probe.errors import InputError, ProbeError
from probe.items import Item
from probe.sampling import Sampling
from probe.stream import Stream
from probe.tokens import SPANS

if TYPE_CHECKING:
    from torch import Tensor

    from probe.handle import Handle

PROBES = (
    "The capital of France is", "2 + 2 =", "Once upon a time", "def add(a, b):", "The opposite of hot is",
    "Question: what is 7 plus 5?\nAnswer:", "Water boils at", "Dear Sir or Madam,",
)  # fmt: skip
N_TOKENS, ALIKE, NEAR_NATS = 8, 6, 0.1
"""Tokens of every probe, how many of the eight texts have to be the same, and how far their log-probabilities may lie
apart (half precision on the server moves them by some hundredths)."""
KEY = "PROBE_SERVER_KEY"
REFUSED, AGAIN = (400, 404, 405, 415, 422), (408, 409, 425, 429, 500, 502, 503, 504)
SEED_BITS = 31


@dataclass
class Served:
    """A server and what it was found to take.

    Attributes:
        url: up to its version, as `http://localhost:8000/v1`.
        name: the model asked for; by default the only one the server lists.
        concurrency: requests under way at once.
        retries: how often a request that failed on its way, or was told to wait, is sent again.
        timeout: seconds for an answer.
        pause: seconds before the first retry; each next one waits twice as long, at most a minute.
        told: what the check of the checkpoint now held found, in words; empty before.
    """

    url: str
    name: str = ""
    concurrency: int = 16
    retries: int = 6
    timeout: float = 600.0
    pause: float = 0.5
    told: str = ""
    takes: set[str] = field(default_factory=lambda: {"ids", "n", "logprobs"})
    _proved: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise InputError(f"server {self.url!r}: expected an address as http://localhost:8000/v1")
        key = os.environ.get(KEY)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=self.timeout)

    def generate(self, model: Handle, prompts: Sequence[Encoded], sampling: Sampling) -> list[Completion]:
        """Every completion, by prompt then sample; the ids are those of its text by the tokenizer here.

        Raises:
            InputError: a server that cannot be reached or serves another model, a request it refuses.
        """
        self.prove(model)
        with ThreadPoolExecutor(self.concurrency) as pool:
            lots = list(pool.map(lambda one: self._answers(model, one, sampling), prompts))
        return [completion for lot in lots for completion in lot]

    def prove(self, model: Handle) -> None:
        """Hold the server's greedy answers against those of the checkpoint here, once for every checkpoint.

        Raises:
            InputError: fewer than six of eight texts are the same, or log-probabilities differ by over .1 nats.
        """
        mark = model.fingerprint()
        if self._proved == mark:
            return
        self.name = self.name or self._only_model()
        rows = [self._probe(model, text) for text in PROBES]
        same = sum(theirs["text"] == ours for theirs, ours, _ in rows)
        gaps = [_gap(theirs, logprobs) for theirs, ours, logprobs in rows if theirs["text"] == ours]
        known = [g for g in gaps if g is not None]
        found = f"{same} of {len(PROBES)} greedy texts of {N_TOKENS} tokens are the same"
        found += f", log-probabilities within {max(known):.1g} nats" if known else " (it gives no log-probabilities)"
        if same < ALIKE or (known and max(known) > NEAR_NATS):
            raise InputError(
                f"{self.url} ({self.name}) does not serve this checkpoint ({model.checkpoint or 'the model'}): "
                f"{found}. Serve that checkpoint with its own tokenizer, or leave --generate-with out"
            )
        self.told, self._proved = f"texts by {self.url}, model {self.name}: {found}", mark

    def _probe(self, model: Handle, text: str) -> tuple[dict[str, Any], str, Tensor]:
        """The server's answer to a probe, the text here, and the log-probabilities of its tokens here."""
        prompt = tuple(model.tokenizer(text)["input_ids"])
        one = Encoded(Item(text, text, "-"), prompt, (SPANS.index("prompt"),) * len(prompt))
        theirs = self._complete(model, one, {"max_tokens": N_TOKENS, "temperature": 0.0, "logprobs": 1})[0]
        (own,) = Stream(model, [one], (), Sampling(N_TOKENS), 1).run()
        whole = Encoded(one.item, (*prompt, *own.ids), (*one.span, *(SPANS.index("answer"),) * len(own.ids)))
        logits = model.run(padded([whole], "left", model.pad_id)).logits
        assert logits is not None
        scored = logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        chosen = scored.gather(-1, logits.new_tensor(own.ids).long()[:, None])[:, 0]
        return theirs, own.text, chosen

    def _only_model(self) -> str:
        listed = [str(row["id"]) for row in self._send("GET", "/models", None).get("data", [])]
        if len(listed) != 1:
            raise InputError(f"{self.url} serves {listed or 'no model'}: name one of them (URL#NAME)")
        return listed[0]

    def _answers(self, model: Handle, one: Encoded, sampling: Sampling) -> list[Completion]:
        """A prompt's samples: in one request where the server has `n`, else by a request each."""
        how: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p,
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
        }  # fmt: skip
        n, found = sampling.n_samples, list[dict[str, Any]]()
        if n > 1 and "n" in self.takes:
            found = self._complete(model, one, {**how, "n": n, "seed": _seed(sampling, one, 0)})
        for number in range(len(found), n):
            found += self._complete(model, one, {**how, "seed": _seed(sampling, one, number)})[:1]
        return [_completion(model, one, k, choice, sampling) for k, choice in enumerate(found[:n])]

    def _complete(self, model: Handle, one: Encoded, options: Mapping[str, object]) -> list[dict[str, Any]]:
        """Choices of one request; what the server refuses is left out from then on, if it can be done without."""
        while True:
            asked = {k: v for k, v in options.items() if k not in ("n", "logprobs") or k in self.takes}
            prompt = list(one.ids) if "ids" in self.takes else _text(model, one)
            try:
                answer = self._send("POST", "/completions", {"model": self.name, "prompt": prompt, **asked})
                return list(answer["choices"])
            except _RefusedError as error:
                spare = [*(k for k in ("logprobs", "n") if k in asked), *(["ids"] if isinstance(prompt, list) else [])]
                if not spare:
                    raise InputError(f"{self.url} refuses a request: {error}") from error
                self.takes.discard(next((k for k in spare if re.search(rf"\b{k}\b", str(error))), spare[-1]))

    def _send(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        """An answer; sent again after a pause where it failed on its way or the server has too much to do."""
        told = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(60.0, self.pause * 2 ** (attempt - 1)))
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                told = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code in REFUSED:
                raise _RefusedError(f"{answer.status_code}: {answer.text[:200]}")
            if answer.status_code not in AGAIN:
                return _read(self.url, answer)
            told = f"{answer.status_code}: {answer.text[:200]}"
        raise InputError(f"{self.url}{path} does not answer after {self.retries + 1} attempts ({told}); is it running?")


class _RefusedError(ProbeError):
    """The server says that a request is not one it takes."""


def served(address: str) -> Served:
    """The server of an address `URL` or `URL#MODEL`."""
    url, _, name = address.partition("#")
    return Served(url, name)


def _read(url: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise InputError(f"{url}: {answer.status_code}: {answer.text[:200]}; set {KEY} if it wants a key")
    try:
        return dict(answer.json())
    except ValueError as error:
        raise InputError(f"{url} answers with something else than JSON: {answer.text[:80]!r}") from error


def _text(model: Handle, one: Encoded) -> str:
    """A prompt as text, without the BOS that the server's tokenizer puts before it."""
    ids, bos = list(one.ids), model.tokenizer.bos_token_id
    adds = model.tokenizer("a")["input_ids"][:1] == [bos]
    return model.tokenizer.decode(ids[1:] if adds and ids[:1] == [bos] else ids, skip_special_tokens=False)


def _gap(theirs: Mapping[str, Any], ours: Tensor) -> float | None:
    """Largest difference of the tokens' log-probabilities; None where the server gives none, or of other tokens."""
    told = (theirs.get("logprobs") or {}).get("token_logprobs")
    if not told or any(x is None for x in told):
        return None
    n = min(len(told), len(ours))
    return float((ours[:n] - ours.new_tensor(told[:n])).abs().max())


def _seed(sampling: Sampling, one: Encoded, number: int) -> int:
    """A seed for every (seed, item, sample), whatever else is asked."""
    digest = hashlib.sha256(f"{sampling.seed}|{one.item.id}|{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - SEED_BITS)


def _completion(model: Handle, one: Encoded, number: int, choice: Mapping[str, Any], sampling: Sampling) -> Completion:
    text = str(choice["text"])
    cuts = [at for at in (text.find(s) for s in sampling.stop) if at >= 0]
    ended: Finish = "length" if choice.get("finish_reason") == "length" else "eos"
    if cuts or isinstance(choice.get("stop_reason"), str):
        ended = "stop"
    text = text[: min(cuts, default=len(text))]
    ids = tuple(model.tokenizer(text, add_special_tokens=False)["input_ids"])
    return Completion(one.item, number, ids, text, ended)
