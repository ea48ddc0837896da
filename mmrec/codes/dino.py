"""RQ-DINO: pictures tokenised by self-distillation whose student sees through a residual quantiser."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mmrec.codes.pictures import PictureEncoder, Pictures, random_crops, scale
from mmrec.codes.quantiser import Fitted, Settings, child_seed, squared_distances
from mmrec.codes.residual import ResidualQuantiser, begin_codebooks, restart_dead
from mmrec.codes.rqvae import RESTART_SHARE
from mmrec.errors import FeatureError
from mmrec.progress import Progress, note

LEAST_ENTROPY = 0.5  # of the teacher's mean output, as a share of the most there can be


class DinoSettings(Settings):
    """Settings of RQ-DINO."""

    backbone: str = Field("small", description="small, or a vision model of transformers: folder or hub id")
    picture_size: int = Field(96, ge=16, description="of the pictures that crops are taken from")
    global_size: int = Field(64, ge=16)
    local_size: int = Field(32, ge=16)
    local_views: int = Field(4, ge=0)
    latent: int = Field(64, ge=2)
    prototypes: int = Field(256, ge=2)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0, description="at first")
    last_teacher_temperature: float = Field(0.07, gt=0, description="after the first third of the training")
    momentum: float = Field(0.996, ge=0, lt=1, description="of the teacher at first; it goes to 1")
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    beta: float = Field(0.25, ge=0, description="weight of the commitment term")
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=2)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.04, ge=0)


class Dino(nn.Module):
    """Student, teacher, codebooks and centre.

    The student's vector z of a view is quantised residually (``r_1 = z``, ``q_l`` the nearest code of level l,
    ``r_{l+1} = r_l - sg[q_l]``, ``ẑ = z + sg[Σ q_l - z]``) before its head; the teacher, a moving average of the
    student, is not quantised. With ``p_s = softmax(g_s(ẑ) / τ_s)`` and ``p_t = softmax((g_t(f_t(x)) - centre) / τ_t)``

        mean_{global t, view s ≠ t} H(p_t, p_s) + Σ_l (|sg[r_l] - q_l|² + β |r_l - sg[q_l]|²) / latent,

    so codes keep what tells pictures apart whatever their crop, and no pixel has to be rebuilt. The centre is the
    moving average of the teacher's outputs: it keeps all pictures from the same prototype.

    Args:
        settings: Settings.

    Sources: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021; Vandenhirtz et al.,
    "Multimodal Generative Recommendation for Fusing Semantic and Collaborative Signals", 2026, for the idea of the
    quantised student; its equations are not public, these are ours.
    """

    centre: Tensor

    def __init__(self, settings: DinoSettings) -> None:
        super().__init__()
        self.settings = settings
        self.student = PictureEncoder(settings.latent, settings.backbone)
        self.head = _Head(settings.latent, settings.prototypes)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.codebooks = nn.ParameterList(
            torch.randn(settings.size, settings.latent) for _ in range(settings.levels)
        )
        self.register_buffer("centre", torch.zeros(settings.prototypes))

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantised latents ``(b, latent)`` with the latents' gradient, codes ``(b, levels)``, and the quantiser's loss."""
        residual, total, loss, codes = latents, torch.zeros_like(latents), latents.new_zeros(()), []
        for codebook in self.codebooks:
            own = squared_distances(residual.detach(), codebook.detach()).argmin(1)
            chosen = F.embedding(own, codebook)
            loss = loss + F.mse_loss(chosen, residual.detach())
            loss = loss + self.settings.beta * F.mse_loss(residual, chosen.detach())
            total = total + chosen.detach()
            residual = residual - chosen.detach()
            codes.append(own)
        return latents + (total - latents).detach(), torch.stack(codes, 1), loss

    def loss(
        self, whole: Sequence[Tensor], parts: Sequence[Tensor], temperature: float
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Named terms, codes ``(b, levels)`` of the first view, and the teacher's mean output ``(prototypes,)``.

        Also moves the centre.

        Args:
            whole: Global views, ``(b, 3, s, s)`` each.
            parts: Local views.
            temperature: The teacher's.
        """
        with torch.no_grad():
            outputs = [self.teacher_head(self.teacher(view)) for view in whole]
            targets = [((output - self.centre) / temperature).softmax(1) for output in outputs]
            self.move_centre(torch.cat(outputs))
        guesses: list[Tensor] = []
        first, quantiser = None, self.centre.new_zeros(())
        for views in (whole, parts):
            if views:
                latents, codes, loss = self.quantise(self.student(torch.cat(list(views))))
                quantiser = quantiser + loss * len(views) / (len(whole) + len(parts))
                first = codes if first is None else first
                outputs_of = self.head(latents) / self.settings.student_temperature
                guesses += torch.split(outputs_of.log_softmax(1), len(views[0]))
        assert first is not None
        terms = {"distillation": distillation(targets, guesses), "quantiser": quantiser}
        return terms, first[: len(whole[0])], torch.cat(targets).mean(0)

    @torch.no_grad()
    def move_centre(self, outputs: Tensor) -> None:
        """``centre ← m centre + (1 - m) mean`` of the teacher's outputs ``(b, prototypes)``."""
        self.centre.lerp_(outputs.mean(0), 1 - self.settings.centre_momentum)

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """``teacher ← m teacher + (1 - m) student``; running statistics are copied."""
        for teacher, student in ((self.teacher, self.student), (self.teacher_head, self.head)):
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True):
                old.lerp_(new, 1 - momentum)
            for kept, seen in zip(teacher.buffers(), student.buffers(), strict=True):
                kept.copy_(seen)


class _Head(nn.Module):
    """Cosines with prototypes after one hidden layer."""

    def __init__(self, dim: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim))

    def forward(self, rows: Tensor) -> Tensor:
        return F.linear(F.normalize(self.layers(rows), dim=1), F.normalize(self.prototypes, dim=1))


def distillation(targets: Sequence[Tensor], guesses: Sequence[Tensor]) -> Tensor:
    """Mean of ``H(p_t, p_s)`` over all pairs of a target and the guess of another view.

    Args:
        targets: Probabilities ``(b, prototypes)`` of the global views.
        guesses: Log probabilities of all views, the global ones first and in the same order.
    """
    terms = [
        -(target * guess).sum(1).mean()
        for t, target in enumerate(targets)
        for s, guess in enumerate(guesses)
        if s != t
    ]
    return torch.stack(terms).mean()


def relative_entropy(shares: Tensor) -> float:
    """``-Σ p log p / log P`` of shares ``(P,)``: 1 where all prototypes are used alike, 0 where only one is."""
    return float(torch.special.entr(shares).sum() / math.log(len(shares)))


class _Training:
    """The state of one training."""

    def __init__(self, pictures: Pictures, settings: DinoSettings, generator: torch.Generator) -> None:
        self.pictures, self.settings, self.generator = pictures, settings, generator
        self.model = Dino(settings)
        self.model.student.size = self.model.teacher.size = settings.picture_size
        self._begin_codebooks()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
        self.steps = settings.epochs * -(-len(pictures) // settings.batch_size)
        self.step = 0

    @torch.no_grad()
    def _begin_codebooks(self) -> None:
        residuals = torch.from_numpy(np.array(self.model.student.embed(self.pictures)))
        begin_codebooks(self.model.codebooks, residuals, self.generator)

    def run_epoch(self, epoch: int) -> tuple[float, float]:
        """Mean loss, and the relative entropy of the teacher's mean output."""
        settings, model = self.settings, self.model
        model.train()
        warm = min(1.0, 3 * epoch / settings.epochs)
        temperature = settings.teacher_temperature + warm * (
            settings.last_teacher_temperature - settings.teacher_temperature
        )
        counts = torch.zeros(settings.levels, settings.size, dtype=torch.int64)
        total, mean_output = 0.0, torch.zeros(settings.prototypes)
        order = torch.randperm(len(self.pictures), generator=self.generator)
        for rows in torch.split(order, settings.batch_size):
            batch = scale(self.pictures[rows.numpy()])
            whole = [random_crops(batch, settings.global_size, (0.4, 1.0), self.generator) for _ in range(2)]
            parts = [
                random_crops(batch, settings.local_size, (0.05, 0.4), self.generator)
                for _ in range(settings.local_views)
            ]
            terms, codes, output = model.loss(whole, parts, temperature)
            loss = torch.stack(list(terms.values())).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 3.0)
            self.optimizer.step()
            share = self.step / self.steps
            model.move_teacher(1 - (1 - settings.momentum) * (math.cos(math.pi * share) + 1) / 2)
            self.step += 1
            for level, own in enumerate(codes.T):
                counts[level] += torch.bincount(own, minlength=settings.size)
            total += float(loss.detach()) * len(rows) / len(self.pictures)
            mean_output += output * len(rows) / len(self.pictures)
        if epoch < settings.epochs * RESTART_SHARE:
            self._restart(counts)
        return total, relative_entropy(mean_output)

    @torch.no_grad()
    def _restart(self, counts: Tensor) -> None:
        """Codes that nothing chose become residuals of random pictures."""
        rows = torch.randperm(len(self.pictures), generator=self.generator)[: 4 * self.settings.size]
        residuals = torch.from_numpy(np.array(self.model.student.embed(self.pictures[rows.numpy()])))
        restart_dead(self.model.codebooks, residuals, counts, self.generator)


def fit(
    pictures: Pictures,
    fitted: NDArray[np.bool_],
    settings: DinoSettings,
    generator: torch.Generator,
    *,
    allow_collapse: bool = False,
    show_progress: bool = True,
) -> Fitted:
    """RQ-DINO of pictures ``(n_items, 3, s, s)``, learned from those marked in ``fitted (n_items,)``.

    Args:
        pictures: Values from 0 to 255; zeros where an item has none.
        fitted: Pictures to learn from.
        settings: Settings.
        generator: All draws.
        allow_collapse: Only warn where all pictures came to look the same to the teacher.
        show_progress: Show progress on stderr.

    Returns:
        Quantiser and picture encoder; an item's codes are those of its whole picture.

    Raises:
        FeatureError: The teacher's outputs collapsed, or the loss is not finite.
    """
    entropy = loss = 0.0
    history: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(generator))
        training = _Training(pictures[fitted], settings, generator)
        with Progress("rq-dino", settings.epochs, unit="epochs", show=show_progress) as progress:
            for epoch in range(settings.epochs):
                loss, entropy = training.run_epoch(epoch)
                if not math.isfinite(loss):
                    raise FeatureError("a finite loss", f"{loss}", f"train with lr={settings.lr / 10:g}")
                history.append(round(entropy, 4))
                progress.advance(detail=f"loss {loss:.3f}, entropy {entropy:.2f}")
    if entropy < LEAST_ENTROPY:
        collapse = FeatureError(
            f"an entropy of the teacher's mean output above {LEAST_ENTROPY} of the most there can be",
            f"{entropy:.2f}: all pictures look the same to it",
            "train with a larger batch_size or a smaller lr, or keep the codes with --allow-collapse",
        )
        if not allow_collapse:
            raise collapse
        note(str(collapse))
    front = training.model.student.eval()
    quantiser = ResidualQuantiser.of([codebook.detach() for codebook in training.model.codebooks])
    notes: dict[str, Any] = {"loss": loss, "entropy": history}
    return Fitted(quantiser, front.embed(pictures), front, notes=notes)
