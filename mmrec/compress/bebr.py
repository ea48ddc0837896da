"""Recurrent binarisation whose networks are trained on frozen vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mmrec.codes.quantiser import child_seed
from mmrec.compress.binary import learn_rotation
from mmrec.compress.bits import MAX_RESIDUALS, Grid
from mmrec.compress.codec import Codes, Rows, Tensors, as_rows, encode_blocks
from mmrec.encode.encoders import unit_rows
from mmrec.errors import FeatureError
from mmrec.losses import log_partition
from mmrec.progress import Progress


class BEBRSettings(BaseModel):
    """Settings of BEBR."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    residuals: int = Field(
        3, ge=0, le=MAX_RESIDUALS, description="residual steps u: u + 1 bits per dimension"
    )
    hidden: int = Field(64, ge=1, description="width of the residual blocks")
    temperature: float = Field(0.15, gt=0, description="of the cosines of codes")
    teacher: float = Field(
        0.15, ge=0, description="temperature of the targets' cosines; 0: InfoNCE, the own vector only"
    )
    queue: int = Field(4096, ge=0, description="codes of earlier batches that are candidates too")
    momentum: float = Field(0.9, ge=0, le=1, description="of the encoder that fills the queue")
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(512, ge=2)
    lr: float = Field(3e-3, gt=0)


class _Block(nn.Module):
    """``x + W_2 relu(norm(W_1 x))``; the identity at first."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, rows: Tensor) -> Tensor:
        """``(n, d)`` of rows ``(n, d)``."""
        result: Tensor = rows + self.layers(rows)
        return result


class BEBR(nn.Module):
    """``b_0 = sign(φ(y))``, ``b_{t+1} = b_t + 2^-(t+1) sign(R_t(y - norm(ψ_t(b_t))))``, of ``y = √d R f / |f|``.

    φ, ψ_t and R_t are residual blocks, ``norm`` scales to length √d and R is ITQ's rotation: untrained, this is
    :class:`mmrec.compress.binary.Binary`. The networks decide which grid point an item gets; how points are packed and
    scored is the same. sign passes its gradient straight through.

    Source: Gan et al., "Binary Embedding-based Retrieval at Tencent", KDD 2023. The paper's backward-compatible
    training, of new queries against an old index, is left out, and its target is an option (see :func:`fit`).
    """

    kind: ClassVar[str] = "bebr"
    rotation: Tensor

    def __init__(self, dim: int, settings: BEBRSettings) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("rotation", torch.eye(dim))
        steps = settings.residuals
        self.first = _Block(dim, settings.hidden)
        self.rebuild = nn.ModuleList(_Block(dim, settings.hidden) for _ in range(steps))
        self.residual = nn.ModuleList(_Block(dim, settings.hidden) for _ in range(steps))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return len(self.rotation)

    @property
    def grid(self) -> Grid:
        """How the codes are packed."""
        return Grid(self.dim, self.settings.residuals)

    @property
    def bytes_per_item(self) -> int:
        """Width of the codes."""
        return self.grid.bytes_per_item

    def rotate(self, units: Tensor) -> Tensor:
        """``y (n, d)`` of unit vectors ``(n, d)``."""
        turned: Tensor = units @ self.rotation.T
        return turned * math.sqrt(self.dim)

    def points(self, rows: Tensor) -> Tensor:
        """Grid points ``(n, d)`` of ``y (n, d)``, with straight-through gradients."""
        points = _sign(self.first(rows))
        for step, (rebuild, residual) in enumerate(zip(self.rebuild, self.residual, strict=True)):
            rebuilt = F.normalize(rebuild(points), dim=1) * math.sqrt(self.dim)
            points = points + 0.5 ** (step + 1) * _sign(residual(rows - rebuilt))
        return points

    @torch.no_grad()
    def encode(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Codes ``(n, bytes_per_item)`` of vectors ``(n, d)``."""
        return encode_blocks(as_rows(vectors, self.dim), self.bytes_per_item, self._encode)

    def _encode(self, rows: Rows) -> Codes:
        points = self.points(self.rotate(torch.from_numpy(unit_rows(rows)))).numpy()
        return self.grid.pack(points, np.linalg.norm(rows, axis=1))

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)``."""
        points = self.grid.points(codes) * self.grid.scales(codes)[:, None]
        return np.asarray(points @ self.rotation.numpy())

    def scores(self, queries: NDArray[np.floating[Any]], codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for float queries ``(b, d)``."""
        return self.grid.scores(as_rows(queries, self.dim) @ self.rotation.numpy().T, codes)

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for queries that are codes."""
        return self.grid.symmetric_scores(queries, codes)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return self.state_dict(), {"dim": self.dim, "settings": self.settings.model_dump()}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The codec that gave this state."""
        with torch.random.fork_rng(devices=[]):
            model = cls(metadata["dim"], BEBRSettings(**metadata["settings"]))
        model.load_state_dict(dict(tensors))
        return model.eval()


def _sign(rows: Tensor) -> Tensor:
    """1 where not below 0, else -1; the gradient is 1 within [-1, 1] and 0 beyond, where a sign is settled.

    Source: Hubara et al., "Binarized Neural Networks", NeurIPS 2016 (straight-through estimator).
    """
    signs = torch.where(rows >= 0, 1.0, -1.0)
    if not rows.requires_grad:
        return signs
    near = rows.clamp(-1, 1)
    return near + (signs - near).detach()  # near the sign itself, up to rounding


class _Queue:
    """Codes of earlier batches with the unit vectors they are of, newest last."""

    def __init__(self, size: int, dim: int) -> None:
        self.size = size
        self.points, self.units = torch.empty(0, dim), torch.empty(0, dim)

    def push(self, points: Tensor, units: Tensor) -> None:
        keep = max(0, self.size - len(points))
        start = len(self.points) - min(keep, len(self.points))
        self.points = torch.cat([self.points[start:], points[: self.size]])
        self.units = torch.cat([self.units[start:], units[: self.size]])


def match(anchors: Tensor, candidates: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """``mean_i [-Σ_j p_ij a_i·c_j / t + log Σ_j exp(a_i·c_j / t)]`` over cosines: InfoNCE with soft positives.

    Args:
        anchors: ``(b, d)``.
        candidates: ``(n, d)``.
        targets: ``(b, n)`` p, rows sum to 1.
        temperature: t.
    """
    anchors = F.normalize(anchors, dim=1) / temperature
    candidates = F.normalize(candidates, dim=1)
    return (log_partition(anchors, candidates) - (anchors * (targets @ candidates)).sum()) / len(anchors)


def fit(
    vectors: NDArray[np.floating[Any]],
    settings: BEBRSettings,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> BEBR:
    """Train BEBR on frozen vectors ``(n, d)``.

    A batch's codes are anchors, twice: among float vectors, as when float queries are scored, and among the codes that
    a momentum encoder gives. Candidates are the batch itself and a queue of the batches before it, where the hard
    negatives are. With ``teacher`` 0 the target is the anchor itself: the paper's InfoNCE. Above it the targets are
    shares ``softmax_j(<f_i, f_j> / teacher)`` of float cosines.

    Measure before use, with :func:`mmrec.compress.measure.compare_codecs`: on vectors in clusters soft targets gained
    two to three points of symmetric recall at u = 1 over ITQ without training, and next to nothing, or less, at other
    u. InfoNCE lost ten and more: it pushes codes of near vectors apart.

    Args:
        vectors: Items, and queries too where they lie elsewhere.
        settings: Settings.
        generator: Draws the rotation, the initial weights and the batches.
        show_progress: Whether to show progress.

    Raises:
        FeatureError: Fewer than two vectors other than zero, or a loss that is not finite.
    """
    units = torch.from_numpy(unit_rows(as_rows(vectors)))
    units = units[units.any(dim=1)]
    if len(units) < 2:
        raise FeatureError("two or more vectors other than zero", str(len(units)), "give more vectors")
    seed = child_seed(generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BEBR(units.shape[1], settings)
    start = np.linalg.qr(np.random.default_rng(seed).standard_normal((model.dim, model.dim)))[0]
    model.rotation.copy_(torch.from_numpy(learn_rotation(units.numpy(), start)))
    _train(model, units, generator, show_progress)
    return model.eval()


def _train(model: BEBR, units: Tensor, generator: torch.Generator, show_progress: bool) -> None:
    settings = model.settings
    slow = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    steps = settings.epochs * -(-len(units) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    queue = _Queue(settings.queue, model.dim)
    with Progress("bebr", settings.epochs, unit="epochs", show=show_progress) as progress:
        for _ in range(settings.epochs):
            total = torch.zeros(())
            for rows in torch.split(torch.randperm(len(units), generator=generator), settings.batch_size):
                if len(rows) < 2:  # nothing to normalise a batch by
                    continue
                batch = units[rows]
                own = slow.points(slow.rotate(batch))
                candidates, known = torch.cat([own, queue.points]), torch.cat([batch, queue.units])
                targets = _targets(batch, known, settings.teacher)
                turned = model.rotate(batch)
                points = model.points(turned)
                loss = match(points, candidates, targets, settings.temperature)
                loss = loss + match(points, model.rotate(known), targets, settings.temperature)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for mine, its in zip(slow.parameters(), model.parameters(), strict=True):
                        mine.lerp_(its, 1 - settings.momentum)
                queue.push(own, batch)
                total += loss.detach() * len(rows)
            if not torch.isfinite(total):
                raise FeatureError(
                    "a finite loss", f"{float(total)}", f"train more carefully: lr={settings.lr / 10:g}"
                )
            progress.advance(detail=f"loss {float(total) / len(units):.4g}")


def _targets(batch: Tensor, known: Tensor, temperature: float) -> Tensor:
    """``(b, n)`` shares of candidates whose first b are the batch's own."""
    if temperature == 0:
        return torch.eye(len(batch), len(known))
    return (batch @ known.T / temperature).softmax(1)
