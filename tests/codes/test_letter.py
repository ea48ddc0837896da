"""LETTER's terms: without them RQ-VAE bit for bit, positives from the same group, alignment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.codes import letter
from mmrec.codes.letter import LetterSettings, alignment, diversity, draw_positives, fit_width
from mmrec.errors import ConfigError
from tests.codes.test_quantisers import EVERYTHING, SMALL, fitted, generator, rows


def test_without_its_terms_it_is_rqvae_bit_for_bit() -> None:
    plain = fitted("rqvae", levels=3).quantiser.state()[0]
    reduced = fitted("letter", alpha=0, diversity=0, sinkhorn=0).quantiser.state()[0]
    assert all(torch.equal(plain[name], reduced[name]) for name in plain)
    with_both = fitted("letter", sinkhorn=0).quantiser.state()[0]
    assert any(not torch.equal(plain[name], with_both[name]) for name in plain)


def test_positives_are_others_of_the_group() -> None:
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    codes = torch.arange(6).repeat(200)
    drawn = draw_positives(codes, groups, generator())
    assert (drawn[codes == 5] == -1).all()  # alone in its group: skipped, and no endless loop
    rest = codes != 5
    assert (drawn[rest] != codes[rest]).all()
    assert (groups[drawn[rest]] == groups[codes[rest]]).all()
    assert set(drawn[codes == 0].tolist()) == {1, 2}


def test_diversity_by_hand_and_its_gradient() -> None:
    codebook = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 2.0]], requires_grad=True)
    value = diversity(codebook, torch.tensor([0]), torch.tensor([0, 0, 1]), generator())
    others = np.array([0.5, 0.0])  # products of the first with the second and the third
    assert value.item() == pytest.approx(np.log(np.exp(others).sum()) - 0.5)
    value.backward()
    assert codebook.grad is not None
    assert torch.isfinite(codebook.grad).all() and codebook.grad.any()
    alone = diversity(codebook, torch.tensor([2]), torch.tensor([0, 0, 1]), generator())
    assert alone.item() == 0


def test_diversity_reaches_codebooks_only() -> None:
    settings = LetterSettings(**SMALL, alpha=0, levels=3)
    model = letter.build(10, settings, generator(), letter.Letter)
    assert isinstance(model, letter.Letter)
    model.prepare(torch.from_numpy(rows()), generator())
    model.align(None, None, generator())
    model.on_epoch(0)
    term = model.terms(model.run(torch.from_numpy(rows())), torch.arange(200))["diversity"]
    gradients = torch.autograd.grad(term, list(model.parameters()), allow_unused=True)
    touched = {
        name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None
    }
    assert touched == {"codebooks.0", "codebooks.1", "codebooks.2"}


def test_alignment_is_least_at_the_targets_and_does_not_see_the_order() -> None:
    targets = torch.nn.functional.normalize(torch.from_numpy(rows(20, 8)), dim=1)
    latents = torch.from_numpy(rows(20, 8, seed=1))
    order = torch.randperm(20, generator=generator())
    assert alignment(latents[order], targets[order]).item() == pytest.approx(
        alignment(latents, targets).item(), rel=1e-5
    )
    values = [alignment(scale * targets, targets).item() for scale in (1, 5, 50)]
    assert values[0] > values[1] > values[2]
    assert values[2] < 0.01 < alignment(latents, targets).item()


def test_targets_keep_their_inner_products() -> None:
    wide = torch.from_numpy(rows(30, 3) @ rows(3, 12, seed=1))  # of rank 3
    for width in (3, 20):
        fitting = fit_width(wide, width)
        assert fitting.shape == (30, width)
        assert torch.allclose(fitting @ fitting.T, wide @ wide.T, atol=1e-3)


def test_alignment_brings_what_is_bought_together_closer() -> None:
    """Where content says little about who buys what, codes do only with alignment."""
    block = np.arange(200) % 4
    targets = np.eye(4, dtype=np.float32)[block]
    content = np.concatenate([rows(d=30, seed=4), targets + 0.1 * rows(d=4, seed=2)], axis=1)
    shares = []
    for alpha in (0.0, 30.0):
        more = {"levels": 2, "alpha": alpha, "diversity": 0, "sinkhorn": 0, "lr": 0.01}
        settings = LetterSettings(**{**SMALL, "epochs": 25}, **more)
        made = letter.fit(
            content, EVERYTHING, settings, generator(), targets=(targets, EVERYTHING), show_progress=False
        )
        first = made.quantiser.encode(content)[:, 0]
        table = np.zeros((8, 4))
        np.add.at(table, (first, block), 1)
        shares.append(table.max(1).sum() / 200)
    assert shares[1] > shares[0] + 0.1


def test_alignment_needs_a_run() -> None:
    with pytest.raises(ConfigError, match="--run"):
        letter.fit(rows(), EVERYTHING, LetterSettings(**SMALL), generator(), show_progress=False)
