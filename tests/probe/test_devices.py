"""What a model does, it does on an accelerator; what differs between devices is asked in one place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses import run
from analyses.core.running.inputs import Loading
from analyses.core.running.sweep import sweep
from probe import Edit, InputError, Model, Prompts, Rollouts, devices, patch, scale
from probe.backends import NAMES
from probe.recompute import recompute
from probe.replay import Clean, answer_logprob, replay
from probe.training.recorded_step import token_statistics
from tests import logs, tiny
from tests.accelerator import DEVICE, IS_PRETENDED, accelerator, devices_map, second_device

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def there() -> Iterator[None]:
    with accelerator():
        yield


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.series(tmp_path_factory.mktemp("devices"), steps=(0, 10))


def close(one: Any, other: Any, atol: float = 1e-5) -> bool:
    return torch.allclose(one.detach().cpu(), other.detach().cpu(), atol=atol)


@pytest.mark.parametrize("backend", NAMES)
def test_proofs_swap_and_reads_hold_there(series: Path, backend: str, prompts: Prompts) -> None:
    plain = Model.load(series / "checkpoint-10", backend=backend, check=False)
    model = Model.load(series / "checkpoint-0", backend=backend, device=DEVICE)  # its proofs run there too
    before = model.run(plain.batches(prompts)[0]).logits
    model.swap(series / "checkpoint-10")
    batch = plain.batches(prompts)[0]
    sites = plain.sites()
    want, got = plain.run(batch, sites), model.run(batch, sites)
    real = batch.mask
    assert before is not None and want.logits is not None and got.logits is not None
    assert not close(before, got.logits) and close(got.logits.cpu()[real], want.logits[real])
    assert all(str(got[s].device) == DEVICE for s in sites)
    assert close(model.unembed(got["resid_post.1"]).cpu()[real], plain.unembed(want["resid_post.1"])[real])


@pytest.mark.parametrize("backend", NAMES)
def test_generation_with_edits_is_the_cpus(series: Path, backend: str, prompts: Prompts) -> None:
    def texts(device: str) -> list[tuple[int, ...]]:
        model = Model.load(series / "checkpoint-10", backend=backend, device=device, check=False)
        edits = [scale("z.1.2", 3.0), scale("mlp_post.0", 0.0, neurons=(1, 5)), patch("mlp_out.2", torch.ones(32))]
        drawn = model.generate(prompts, edits=edits, max_new_tokens=5, temperature=1.0, n_samples=2, seed=3)
        greedy = model.generate(prompts, edits=edits, max_new_tokens=5, stop=("7",))
        return [c.ids for c in (*drawn, *greedy)]

    assert texts("cpu") == texts(DEVICE)


def spread() -> list[Any]:
    return ["cpu", DEVICE, devices_map()]


def test_replay_is_the_cpus_and_over_two_devices_too(series: Path, prompts: Prompts) -> None:
    found = []
    for place in spread():
        placed = {"device_map": place} if isinstance(place, dict) else {"device": place}
        base, tuned = (Model.load(series / f"checkpoint-{n}", check=False, **placed) for n in (0, 10))
        batch = base.batches(prompts)[0]
        target, source = Clean(base, batch), Clean(tuned, batch)
        names = ("embed", "resid_pre.1", "resid_mid.1", "q.1", "k.2", "pattern.1", "z.0.1", "attn_out.1", "mlp_post.2",
                 "mlp_out.0", "resid_post.2", "ln_final")  # fmt: skip
        edits = [patch(name, source.value(base.site(name)), "all_prompt") for name in names]
        found.append(replay(target, [*edits, edits[:4]], answer_logprob(batch)))
    assert close(found[0], found[1]) and close(found[0], found[2])


def test_two_models_on_two_devices_are_one_pair(series: Path, prompts: Prompts) -> None:
    """A base on one card and a tuned model on the other: neither is small."""
    folders = {"base": series / "checkpoint-0", "tuned": series / "checkpoint-10"}
    places = {"base": DEVICE, "tuned": second_device()}
    rollouts = Rollouts.of(logs.rows(vocab=200))
    for name, given in {
        "divergence": {"prompts": prompts},
        "cross_patching": {"prompts": prompts, "sites": ("mlp_out",)},
        "path_patching": {"prompts": prompts, "senders": ("mlp_out",)},
        "weight_drift": {},
        "similarity": {"prompts": prompts},
        "entropy_change": {"rollouts": rollouts},
    }.items():
        want = run(name, **given, **folders).summary()
        apart = {n: Model.load(f, device=places[n], check=False) for n, f in folders.items()}
        got = run(name, **given, **apart).summary()
        assert np.allclose(want["value"], got["value"], atol=1e-4, equal_nan=True), name


def test_a_sweep_swaps_there_and_hold_one_takes_turns(series: Path, prompts: Prompts) -> None:
    there, here = Loading(device=DEVICE), Loading()
    want, got = (sweep("perplexity", checkpoints=series, prompts=prompts, loading=at).summary() for at in (here, there))
    assert np.allclose(want["value"], got["value"], atol=1e-4)
    pair = {"base": series / "checkpoint-0", "tuned": series / "checkpoint-10", "prompts": prompts}
    both, one = (run("divergence", **pair, loading=at) for at in (here, Loading(device=DEVICE, hold="one")))
    assert np.allclose(both.table["jsd_nats"], one.table["jsd_nats"], atol=1e-6)


def test_a_log_is_recomputed_and_a_recorder_scores_there(series: Path, tmp_path: Path) -> None:
    log = Rollouts.of(logs.rows(vocab=200, logged=False))
    made = [
        recompute(log, Model.load(series / "checkpoint-0", device=at, check=False), tmp_path / f"{n}.parquet")
        for n, at in enumerate(("cpu", DEVICE))
    ]
    for name in ("old_logp", "H", "B"):
        here, there = (np.concatenate(m.scalars([name])[name].tolist()) for m in made)
        assert np.allclose(here, there, atol=1e-5, equal_nan=True)
    states, head = torch.randn(7, 8), torch.nn.Linear(8, 30)
    ids = torch.arange(7)
    here = token_statistics(states, head, ids)
    there = token_statistics(states.to(DEVICE), head.to(DEVICE), ids.to(DEVICE))
    assert all(close(here[n], there[n]) for n in here)


def test_page_steers_code_runs_there(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apps.dashboard.pages import steer

    recipe = steer.Recipe(str(series / "checkpoint-0"), "mlp_post", 1, (2, 3), 4.0, "what is", 4, 0)
    texts = []
    for at in ("cpu", DEVICE):
        loaded = Model.load(series / "checkpoint-0", device=at, check=False)
        monkeypatch.setattr(steer.running, "model", lambda _path, m=loaded: m)
        texts.append(steer.completions(recipe))
    assert texts[0] == texts[1]


def test_an_edits_tensors_may_lie_anywhere(series: Path, prompts: Prompts) -> None:
    """Masks and vectors made on the CPU, as a notebook makes them."""
    found = []
    for at in ("cpu", DEVICE):
        model = Model.load(series / "checkpoint-0", device=at, check=False)
        batch = model.batches(prompts)[0]
        where = batch.mask.clone()
        where[:, :-2] = False
        vector = torch.linspace(-1, 1, 32)
        found.append(model.run(batch, edits=[Edit("resid_post.0", lambda x, v=vector: x + v.to(x), where)]).logits)
    assert close(found[0][batch.mask], found[1].cpu()[batch.mask])


@pytest.mark.skipif(not IS_PRETENDED, reason="on a real device torch says so itself")
@pytest.mark.parametrize(
    "mixed",
    [
        lambda a, b: a + b,
        lambda a, b: a + torch.ones(3),
        lambda a, b: a.numpy(),
        lambda a, b: torch.ones(3)[torch.zeros(2, dtype=torch.long, device="sim:0")],
        lambda a, b: a[torch.zeros(2, dtype=torch.long, device="sim:1")],
        lambda a, b: torch.where(torch.ones(3, dtype=torch.bool), a, a),
        lambda a, b: a.__setitem__(slice(0, 2), b[:2].to("cpu") + a[:2]),
        lambda a, b: torch.randn(3, generator=torch.Generator(), device="sim:1"),
    ],
)  # fmt: skip
def test_the_pretended_device_refuses_to_mix(mixed: Callable[[Any, Any], Any]) -> None:
    a, b = torch.zeros(3, device="sim:0"), torch.ones(3, device="sim:1")
    with pytest.raises((RuntimeError, TypeError)):
        mixed(a, b)
    assert (a + b.to(a)).tolist() == [1, 1, 1] and a[torch.tensor([0, 1])].device == a.device


def test_nothing_else_asks_what_kind_a_device_is() -> None:
    asking = re.compile(r"device\.type|torch\.(cuda|mps|xpu|accelerator)\b|startswith\(.cuda")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for room in ("probe", "analyses", "apps")
        for file in sorted((ROOT / room).rglob("*.py"))
        if file.name != "devices.py"
        for line in file.read_text(encoding="utf-8").splitlines()
        if asking.search(line)
    ]
    assert not found


def test_devices_are_told_by_name() -> None:
    assert devices.named('{"a": 0, "b": "cuda:1", "c": "cpu", "d": "disk"}') == {"cuda:0", "cuda:1"}
    assert devices.gpus("cuda") == 1 and devices.gpus("cpu") == 0
    assert devices.gpus('{"a": 0, "b": 1, "c": 1}') == 2
    assert devices.free_bytes("cpu") > 0
    for bad in ("mps", "meta", "cpu:3", "gpu7", "cuda:99"):
        with pytest.raises(InputError, match=re.escape(bad)):
            devices.check(bad)
