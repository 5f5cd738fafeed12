"""Dictionaries of two checkpoints: what one alone has is found at its tokens, what both have is not called new."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyses.core.running.run import run
from analyses.mechanism import _dictionary_files, _training
from analyses.mechanism._dictionary import Dictionary
from analyses.mechanism._latents import Latents, measured
from probe import InputError, Model
from tests import planted, tiny

WIDTH, SHARED = 24, 30  # coordinates, and features that both checkpoints have
SOME = planted.cued(150)


def example(folder: Path) -> dict[str, Any]:
    pair = {name: str(tiny.save(folder / name, words=True, seed=n)) for n, name in enumerate(("base", "tuned"))}
    return {**pair, "prompts": planted.cued(16), "latents": 16, "updates": 5, "shown": 4}


def met(strength: float, **how: Any) -> Model:
    return Model.wrap(planted.meeting(strength, **how), tiny.word_tokenizer(), check=False)


def asked(base: Model, tuned: Model, **how: Any) -> Any:
    given = {"prompts": SOME, "layer": 1, "latents": 40, "updates": 600, "batch_size": 64}
    return run("crosscoder", base=base, tuned=tuned, **{**given, **how})


def states(seed: int, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sparse features, the first of tuned alone, the second of base alone, the third half as large in base; noise.

    Gives states [token model d_model], the features' directions, and where they are on.
    """
    rng = torch.Generator().manual_seed(900 + seed)
    ways = torch.randn(SHARED + 3, WIDTH, generator=rng)
    ways = ways / ways.norm(dim=-1, keepdim=True)
    on = (torch.rand(n, len(ways), generator=rng) < 0.08) * (1 + torch.rand(n, len(ways), generator=rng))
    size = torch.ones(2, len(ways))
    size[0, 0], size[1, 1], size[0, 2] = 0, 0, 0.5
    noise = torch.randn(n, 2, WIDTH, generator=rng)
    return torch.einsum("tf,mf,fd->tmd", on, size, ways) + 0.05 * noise, ways, on


def judged(made: Dictionary, values: torch.Tensor, of_item: int = 10) -> Latents:
    """The latents over items of so many tokens, the first half fitted."""
    item = torch.arange(len(values)) // of_item
    tokens: Any = SimpleNamespace(items=list(range(int(item[-1]) + 1)), item=item)
    return measured(made, values, tokens, torch.arange(len(values)) < len(values) // 2)


@pytest.fixture(scope="module")
def found() -> tuple[Latents, torch.Tensor]:
    values, ways, _ = states(0)
    recipe = _training.Recipe(latents=64, own=8, k=4, steps=600, rate=3e-3, seed=0)
    made = _training.Trainer(values[: len(values) // 2], recipe).run()
    return judged(made, values), ways


def like(seen: Latents, way: torch.Tensor, model: int) -> int | None:
    """The latent that writes this direction into a checkpoint, if one does."""
    decoder = seen.dictionary.decoder[model]
    cosine = (decoder @ way / decoder.norm(dim=-1).clamp_min(1e-9)) * torch.from_numpy(seen.energy[model] > 0)
    return int(cosine.argmax()) if float(cosine.max()) > 0.9 else None


def test_planted_features_are_found_as_what_they_are(found: tuple[Latents, torch.Tensor]) -> None:
    seen, ways = found
    presence = seen.presence(np.arange(len(seen.on)) >= len(seen.on) // 2)
    new, gone, weak = like(seen, ways[0], 1), like(seen, ways[1], 0), like(seen, ways[2], 1)
    assert new is not None and seen.relative_norm[new] == 1 and abs(presence[new]) < 0.2
    assert gone is not None and seen.relative_norm[gone] == 0 and abs(presence[gone]) < 0.2
    assert weak is not None and 0.35 < presence[weak] < 0.75  # half as large in base: a feature of both
    both = [j for way in ways[3:] if (j := like(seen, way, 1)) is not None]
    assert len(both) >= 20
    assert (presence[both] > 0.7).all()  # also of those that a latent of tuned and one of base share


def test_the_dictionary_explains_the_states(found: tuple[Latents, torch.Tensor]) -> None:
    """Four latents a token for 2.6 features a token leave little more than the noise."""
    seen, _ = found
    assert (seen.unexplained < 0.2).all()
    assert 2 < seen.density.sum() < 7


def test_a_shared_feature_split_in_two_is_not_new() -> None:
    """The artefact: one feature as a latent of base alone and one of tuned alone, both on together."""
    values, ways, _ = states(1)
    way = ways[5]
    one = torch.stack([way, torch.zeros(WIDTH)])
    decoder = torch.stack([one, one.flip(0)])
    split = Dictionary(
        torch.stack([way, way]).T.expand(2, -1, -1) / 2, torch.full((2,), -0.5), decoder, values.mean(0), torch.zeros(2)
    )
    seen = judged(split, values)
    assert list(seen.relative_norm) == [0, 1]
    assert seen.presence(np.ones(len(seen.on), bool)) == pytest.approx([1, 1], abs=0.1)


def test_explained_is_what_is_lost_without_a_latent(found: tuple[Latents, torch.Tensor]) -> None:
    seen, ways = found
    values, _, _ = states(0)
    j = like(seen, ways[0], 1)
    assert j is not None
    on = seen.dictionary.activations(values)
    rest = values - seen.dictionary.decoded(on)
    without = rest[:, 1] + on[:, 1, j, None] * seen.dictionary.decoder[1, j]
    lost = float(without.square().sum() - rest[:, 1].square().sum())
    whole = float((values[:, 1] - seen.dictionary.center[1]).square().sum())
    assert seen.explained[j] == pytest.approx(lost / whole, rel=1e-3)


def test_a_stopped_training_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, _, _ = states(2, 600)
    recipe = _training.Recipe(latents=16, own=2, k=3, steps=60, rate=3e-3, seed=3)
    whole = _training.Trainer(values, recipe).run()
    monkeypatch.setattr(_training, "SAVED_EVERY", 20)
    advance = _training.Trainer.advance

    def stopped(self: _training.Trainer) -> None:
        if self.step == 47:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(_training.Trainer, "advance", stopped)
    with pytest.raises(KeyboardInterrupt):
        _training.Trainer(values, recipe).run(tmp_path / "training.pt")
    monkeypatch.setattr(_training.Trainer, "advance", advance)
    again = _training.Trainer(values, recipe)
    made = again.run(tmp_path / "training.pt")
    assert torch.equal(made.decoder, whole.decoder) and torch.equal(made.threshold, whole.threshold)


@pytest.fixture(scope="module")
def pair() -> Any:
    return asked(met(0.0), met(0.1, drift=0.02))


def test_a_feature_that_only_tuned_has_is_found_with_its_worth(pair: Any) -> None:
    new, worth = (next(c for c in pair.claims if c.kind == kind) for kind in ("new", "worth"))
    assert new.is_found and abs(new.effect) < 0.2
    assert worth.is_found and 0.6 < worth.share < 1.3
    rows = pair.table.query("arm == 'latent' and kind == 'new'")
    (latent,) = {int(j) for j in rows.nlargest(5, "top")["latent"]}
    assert f"latent {latent}" == new.place
    best = rows.nlargest(20, "top")
    assert best["context"].str.contains(rf"{planted.SUBJECT}.*⟨{planted.CUES[0]}⟩").all()
    lost = rows.assign(met=[planted.SUBJECT in _text(i) for i in rows["item"]]).groupby("met")["lost"].mean()
    assert lost[True] > 1 and abs(lost[False]) < 0.2


def _text(item: str) -> str:
    return next(i.prompt for i in SOME.items if i.id == item)


def test_latents_that_both_have_are_shared(pair: Any) -> None:
    shared = pair.data.where(pair.data["relative_norm"] == 0.5, drop=True)
    presence = shared["presence"].to_numpy()
    common = shared["density"].to_numpy() > 0.02
    assert np.median(np.abs(presence[common] - 1)) < 0.05


def test_latents_are_drawn_by_whose_they_are_and_whether_the_other_has_them(pair: Any) -> None:
    drawn = pair.figures()
    assert list(drawn) == ["latents", "lost"]
    across = [float(x) for t in drawn["latents"].data for x in t.x if x is not None]
    assert min(across) >= 0 and max(across) <= 1 and len(across) > 10


def test_nothing_is_new_of_the_same_checkpoint_or_after_drift() -> None:
    tuned = met(0.1)
    same = asked(tuned, tuned, updates=100)
    assert "identical" in same.warnings[0] and [c.answer for c in same.claims] == ["none found"]
    assert same.table["lost"].isna().all()
    drifted = asked(tuned, met(0.1, drift=0.02, drift_seed=5))
    assert [c.answer for c in drifted.claims] == ["none found"]


def test_a_kept_call_gives_the_same(tmp_path: Path) -> None:
    how = {"updates": 20, "prompts": planted.cued(20)}
    base, tuned = met(0.0), met(0.1)
    plain, kept, again = (asked(base, tuned, folder=f, **how) for f in ("", str(tmp_path), str(tmp_path)))
    assert plain.table.equals(kept.table) and kept.table.equals(again.table)
    with pytest.raises(InputError, match="other checkpoints"):
        asked(base, base, folder=str(tmp_path), **how)


def weights(seed: int = 0, size: int = 40, models: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    shapes = {"read": (WIDTH, size), "bias": (size,), "write": (size, WIDTH), "center": (WIDTH,)}
    both = {n: (models, *s) if models and n != "bias" else s for n, s in shapes.items()}
    return {n: torch.randn(shape, generator=rng) for n, shape in both.items()}


def test_saelens_files(tmp_path: Path) -> None:
    w, threshold = weights(), torch.rand(40)
    named = {"W_enc": w["read"], "b_enc": w["bias"], "W_dec": w["write"], "b_dec": w["center"], "threshold": threshold}
    save_file(named, tmp_path / "sae_weights.safetensors")
    settings = {"architecture": "jumprelu", "apply_b_dec_to_input": True, "normalize_activations": "none"}
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    values = torch.randn(7, 2, WIDTH)
    before = (values - w["center"]) @ w["read"] + w["bias"]
    want = before.relu() * (before > threshold)
    made = _dictionary_files.given(tmp_path, WIDTH)
    torch.testing.assert_close(made.activations(values), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.decoded(want), want @ w["write"] + w["center"], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="this model has 32"):
        _dictionary_files.given(tmp_path, 32)
    (tmp_path / "cfg.json").write_text(json.dumps({**settings, "normalize_activations": "layer_norm"}))
    with pytest.raises(InputError, match="layer_norm"):
        _dictionary_files.given(tmp_path, WIDTH)


def test_saelens_topk(tmp_path: Path) -> None:
    w = weights(1)
    named = {"W_enc": w["read"], "b_enc": w["bias"], "W_dec": w["write"], "b_dec": w["center"]}
    save_file(named, tmp_path / "sae_weights.safetensors")
    settings = {"architecture": "topk", "k": 5, "apply_b_dec_to_input": False}
    (tmp_path / "cfg.json").write_text(json.dumps(settings))
    values = torch.randn(7, 2, WIDTH)
    found = _dictionary_files.given(tmp_path, WIDTH).activations(values)
    before = values @ w["read"] + w["bias"]
    best = before.topk(5, dim=-1)
    want = torch.zeros_like(before).scatter(-1, best.indices, best.values.relu())
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_dictionary_learning_files(tmp_path: Path) -> None:
    w = weights(2)
    named = {"encoder.weight": w["read"].T.contiguous(), "encoder.bias": w["bias"], "b_dec": w["center"]}
    more = {"decoder.weight": w["write"].T.contiguous(), "k": torch.tensor(5), "threshold": torch.tensor(0.4)}
    torch.save({**named, **more}, tmp_path / "ae.pt")
    values = torch.randn(7, 2, WIDTH)
    before = ((values - w["center"]) @ w["read"] + w["bias"]).relu()
    found = _dictionary_files.given(tmp_path / "ae.pt", WIDTH).activations(values)
    torch.testing.assert_close(found, before * (before > 0.4), rtol=1e-4, atol=1e-5)


def test_a_crosscoder_of_dictionary_learning(tmp_path: Path) -> None:
    w = weights(3, models=2)
    named = {"encoder.weight": w["read"], "encoder.bias": w["bias"], "decoder.weight": w["write"]}
    more = {"decoder.bias": w["center"], "k": torch.tensor(5), "threshold": torch.tensor(3.0)}
    save_file({**named, **more}, tmp_path / "model.safetensors")
    values = torch.randn(7, 2, WIDTH)
    before = (torch.einsum("tmd,mdl->tl", values, w["read"]) + w["bias"]).relu()
    want = before * (before * w["write"].norm(dim=-1).sum(0) > 3.0)
    found = _dictionary_files.given(tmp_path, WIDTH).activations(values)
    torch.testing.assert_close(found[:, 0], want, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[:, 0], found[:, 1])


def test_a_given_dictionary_is_judged_alike(tmp_path: Path) -> None:
    """One latent that reads and writes the feature that tuned has ten times as large, one that both have."""
    ways = torch.eye(tiny.D_MODEL)[[3, 0]]
    named = {"W_enc": ways.T.contiguous(), "b_enc": torch.tensor([-0.2, -0.2]), "W_dec": ways}
    save_file({**named, "b_dec": torch.zeros(tiny.D_MODEL)}, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text(json.dumps({"architecture": "standard", "apply_b_dec_to_input": False}))
    result = asked(met(0.01), met(0.1), dictionary=str(tmp_path))
    assert [c.place for c in result.claims if c.kind == "new"] == ["latent 0"]
    assert result.data["presence"].to_numpy() == pytest.approx([0.1, 1], abs=0.1)


def test_bad_input(tmp_path: Path) -> None:
    model = met(0.0)
    with pytest.raises(InputError, match="layer=7"):
        asked(model, model, layer=7)
    with pytest.raises(InputError, match="updates=0"):
        asked(model, model, updates=0)
    with pytest.raises(InputError, match="expected a dictionary's file"):
        asked(model, model, dictionary=str(tmp_path))
    torch.save({"weight": torch.zeros(3)}, tmp_path / "ae.pt")
    with pytest.raises(InputError, match="neither SAELens's names"):
        asked(model, model, dictionary=str(tmp_path))
    few = replace(SOME, items=SOME.items[:6])
    assert asked(model, met(0.1), prompts=few, updates=5).claims[0].answer == "cannot be judged"


@pytest.mark.verify
@pytest.mark.timeout(3600)
def test_features_over_30_seeds() -> None:
    """30 models and dictionaries: the planted feature; drift; and the same feature made twice, drifting apart."""
    found, worth, drift, same = 0, 0, 0, 0
    for seed in range(30):
        how = {"prompts": planted.cued(150, seed), "seed": seed}
        tuned = met(0.1, seed=seed, drift=0.02, drift_seed=seed)
        said = [c.kind for c in asked(met(0.0, seed=seed), tuned, **how).claims if c.is_found]
        found, worth = found + ("new" in said), worth + ("worth" in said)
        there = asked(met(0.1, seed=seed), tuned, **how).claims
        drift += any(c.is_found for c in there)
        another = met(0.1, seed=seed, drift=0.05, drift_seed=seed + 100)
        same += any(c.is_found for c in asked(another, tuned, **how).claims)
    print(f"planted {found}, its worth {worth}, drift {drift}, another drift {same} of 30")
    assert found >= 24 and worth >= 24 and drift <= 4 and same <= 4
