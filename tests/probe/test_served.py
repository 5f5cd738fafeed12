"""Generation by a server: a small real one over our own handle, with and without what OpenAI's protocol may have."""

# pyright: basic

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from analyses import run
from analyses.core.running.inputs import Loading
from probe import Model, Prompts, add
from probe.batches import Encoded, padded
from probe.errors import InputError
from probe.items import Item
from probe.sampling import Sampling
from probe.served import Served, served
from probe.stream import Stream


class Server:
    """Completions of a model over HTTP. `lacks`: fields it refuses, as `transformers serve` does; `fails`: answers of
    503 before it is ready; `asked`: the requests."""

    def __init__(self, model: Model, lacks: tuple[str, ...] = (), fails: int = 0) -> None:
        self.model, self.lacks, self.fails, self.asked = model, lacks, fails, list[dict[str, Any]]()
        self.lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.asked.append(body)
            if self.fails:
                self.fails -= 1
                return 503, {"error": "loading"}
            unknown = [k for k in self.lacks if k in body]
            if unknown or ("ids" in self.lacks and not isinstance(body["prompt"], str)):
                return 422, {"error": f"not supported: {unknown or 'prompt must be a string'}"}
            return 200, {"choices": [self._choice(body, k) for k in range(body.get("n", 1))]}

    def _choice(self, body: dict[str, Any], number: int) -> dict[str, Any]:
        model, prompt = self.model, body["prompt"]
        ids = tuple(model.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt)
        one = Encoded(Item(f"{number}", "-", "-"), ids, (2,) * len(ids))
        how = Sampling(body["max_tokens"], body["temperature"], body.get("top_p", 1.0), body.get("seed", 0),
                       tuple(body.get("stop", ())))  # fmt: skip
        with torch.inference_mode():
            (done,) = Stream(model, [one], (), how, 1).run()
        out: dict[str, Any] = {"text": done.text, "finish_reason": "length" if done.finish == "length" else "stop"}
        if "logprobs" in body:
            whole = Encoded(one.item, (*ids, *done.ids), (*one.span, *(4,) * len(done.ids)))
            logits = model.run(padded([whole])).logits
            assert logits is not None
            rows = logits[0, len(ids) - 1 : -1].log_softmax(-1)
            out["logprobs"] = {"token_logprobs": [float(r[t]) for r, t in zip(rows, done.ids, strict=True)]}
        return out


@pytest.fixture
def serving() -> Iterator[Callable[[Server], str]]:
    """Starts servers; gives their addresses."""
    started: list[ThreadingHTTPServer] = []

    def start(server: Server) -> str:
        class Handler(BaseHTTPRequestHandler):
            def reply(self, status: int, answer: dict[str, Any]) -> None:
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "tiny"}]})

            def do_POST(self) -> None:
                self.reply(*server.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

            def log_message(self, format: str, *args: object) -> None:
                pass

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}/v1"

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize("lacks", [(), ("n", "logprobs", "ids")])
def test_a_server_gives_the_texts_of_the_handle(
    lacks: tuple[str, ...], model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts,
    serving: Callable[[Server], str],
) -> None:  # fmt: skip
    here, server = Model.load(folder_of("llama"), check=False), Server(model_of("llama"), lacks, fails=2)
    here.server = Served(serving(server), pause=0.001)
    few = prompts.limit(3)
    want = model_of("llama").generate(few, max_new_tokens=6)
    stop = next(c.text[2:4] for c in want if len(c.text) > 4)
    assert [c.text for c in here.generate(few, max_new_tokens=6)] == [c.text for c in want]
    cut = here.generate(few, max_new_tokens=6, stop=[stop])
    assert [c.text for c in cut] == [c.text.partition(stop)[0] for c in want]
    drawn = here.generate(few, max_new_tokens=6, temperature=1.0, n_samples=3)
    assert [(c.item.id, c.sample) for c in drawn] == [(i.id, k) for i in few.items for k in range(3)]
    assert "8 of 8" in here.server.told
    assert ("gives no log-probabilities" in here.server.told) is bool(lacks)
    sampled = [r for r in server.asked if r["temperature"]]
    taken = [r for r in sampled if not any(k in r for k in lacks)]
    assert len({r["seed"] for r in taken}) == len(taken) == (3 * 3 if lacks else 3)


def test_another_checkpoint_is_not_taken_for_this_one(
    model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts, serving: Callable[[Server], str]
) -> None:
    here, other = Model.load(folder_of("llama"), check=False), Model.load(folder_of("llama"), check=False)
    with torch.no_grad():
        for weight in other.weights().values():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    here.server = Served(serving(Server(other)))
    with pytest.raises(InputError, match="does not serve this checkpoint"):
        here.generate(prompts, max_new_tokens=3)
    here.server = Served(serving(Server(model_of("llama"))))
    with pytest.raises(InputError, match="cannot edit"):
        here.generate(prompts, max_new_tokens=3, edits=[add("resid_post.1", torch.ones(here.shape.d_model))])
    here.server = Served("http://127.0.0.1:9/v1", name="tiny", retries=1, pause=0.0)
    with pytest.raises(InputError, match="after 2 attempts"):
        here.generate(prompts, max_new_tokens=3)
    with pytest.raises(InputError, match="expected an address"):
        served("localhost:8000")


def test_a_result_says_who_wrote_its_texts(
    model_of: Callable[..., Model], folder_of: Callable[..., Path], prompts: Prompts, serving: Callable[[Server], str],
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, few = folder_of("llama"), prompts.limit(2)
    there = serving(Server(model_of("llama")))
    how: dict[str, Any] = {"grade": "text", "max_new_tokens": 4}
    by_server = run("evaluate", model=folder, prompts=few, loading=Loading(generate_with=f"{there}#tiny"), **how)
    by_handle = run("evaluate", model=folder, prompts=few, **how)
    assert list(by_server.table["text"]) == list(by_handle.table["text"])
    assert any(there in w and "8 of 8" in w for w in by_server.warnings)
    assert by_server.key != by_handle.key
