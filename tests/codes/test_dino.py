"""RQ-DINO: who gets a gradient, the centre, the monitor, crops, and that it learns colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.codes import dino
from mmrec.codes.dino import Dino, DinoSettings, distillation, relative_entropy
from mmrec.codes.pictures import PictureEncoder, random_crops, scale
from mmrec.errors import FeatureError
from tests.codes.test_quantisers import generator

FAST: dict[str, Any] = {
    "size": 4,
    "levels": 2,
    "picture_size": 24,
    "global_size": 16,
    "local_size": 16,
    "local_views": 1,
    "latent": 8,
    "prototypes": 8,
    "epochs": 3,
    "batch_size": 16,
}


def pictures(n: int = 48) -> np.ndarray:
    """Pictures of one of four colours with some noise."""
    rng = np.random.default_rng(0)
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 60]])[np.arange(n) % 4]
    noisy = colours[:, :, None, None] + rng.normal(0, 20, (n, 3, 24, 24))
    return noisy.clip(1, 255).astype(np.uint8)


def views(n: int) -> list[torch.Tensor]:
    batch = scale(pictures(16))
    return [random_crops(batch, 16, (0.4, 1.0), generator(seed)) for seed in range(n)]


def test_student_learns_through_the_quantiser_and_the_teacher_does_not() -> None:
    torch.manual_seed(0)
    model = Dino(DinoSettings(**FAST))
    terms, codes, _ = model.loss(views(2), views(1), 0.04)
    assert codes.shape == (16, 2)
    terms["distillation"].backward()
    student = [p.grad for p in (*model.student.parameters(), *model.head.parameters())]
    assert all(g is not None and g.any() for g in student)
    assert all(p.grad is None for p in (*model.teacher.parameters(), *model.teacher_head.parameters()))
    assert all(book.grad is None or not book.grad.any() for book in model.codebooks)


def test_straight_through() -> None:
    torch.manual_seed(0)
    model = Dino(DinoSettings(**FAST))
    latents = torch.randn(6, 8, requires_grad=True)
    quantised, codes, _ = model.quantise(latents)
    total = sum(book[codes[:, level]] for level, book in enumerate(model.codebooks))
    assert torch.allclose(quantised, total, atol=1e-5)
    weights = torch.randn(6, 8)
    (gradient,) = torch.autograd.grad((quantised * weights).sum(), latents)
    assert torch.equal(gradient, weights)


def test_centre_and_teacher_are_moving_averages() -> None:
    torch.manual_seed(0)
    model = Dino(DinoSettings(**FAST))
    outputs = [torch.randn(5, 8) for _ in range(3)]
    expected = torch.zeros(8)
    for output in outputs:
        model.move_centre(output)
        expected = 0.9 * expected + 0.1 * output.mean(0)
    assert torch.allclose(model.centre, expected, atol=1e-6)
    before = model.teacher.map.weight.clone()
    with torch.no_grad():
        model.student.map.weight.add_(1.0)
    model.move_teacher(0.75)
    assert torch.allclose(model.teacher.map.weight, before + 0.25, atol=1e-6)


def test_distillation_skips_the_same_view() -> None:
    targets = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    guesses = [torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.4, 0.6]]).log()]
    expected = -(np.log(0.4) + np.log(0.2)) / 2
    assert distillation(targets, guesses).item() == pytest.approx(expected, rel=1e-5)


def test_entropy_tells_collapse() -> None:
    assert relative_entropy(torch.full((8,), 1 / 8)) == pytest.approx(1)
    assert relative_entropy(torch.tensor([1.0, 0, 0, 0])) == 0


def test_collapse_is_refused_or_only_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dino, "relative_entropy", lambda shares: 0.1)
    settings = DinoSettings(**{**FAST, "epochs": 1})
    everything = np.ones(48, dtype=bool)
    with pytest.raises(FeatureError, match="look the same"):
        dino.fit(pictures(), everything, settings, generator(), show_progress=False)
    dino.fit(pictures(), everything, settings, generator(), allow_collapse=True, show_progress=False)
    assert "look the same" in capsys.readouterr().err


def test_crops_stay_inside_and_repeat_with_the_seed() -> None:
    flat = torch.full((5, 3, 24, 24), 0.5)
    crops = random_crops(flat, 16, (0.1, 1.0), generator())
    assert crops.shape == (5, 3, 16, 16)
    assert torch.allclose(crops, crops[:, :1, :1, :1].expand_as(crops), atol=1e-5)
    batch = scale(pictures(8))
    one, two, other = (random_crops(batch, 16, (0.1, 1.0), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_codes_tell_colours_apart_and_can_be_given_later() -> None:
    everything = np.arange(48) < 44
    made, again = (
        dino.fit(pictures(), everything, DinoSettings(**FAST), generator(), show_progress=False)
        for _ in range(2)
    )
    codes = made.quantiser.encode(made.vectors)
    assert (again.quantiser.encode(again.vectors) == codes).all()
    table = np.zeros((16, 4))
    np.add.at(table, (codes[:, 0] * 4 + codes[:, 1], np.arange(48) % 4), 1)
    assert table.max(1).sum() / 48 > 0.7
    front = PictureEncoder.restore(*made.front.state())
    assert (front.embed(pictures()) == made.vectors).all()
    assert not front.embed(np.zeros((1, 3, 24, 24), dtype=np.uint8)).any()
    with pytest.raises(FeatureError, match="24, 24"):
        front.embed(np.zeros((1, 3, 16, 16), dtype=np.uint8))
