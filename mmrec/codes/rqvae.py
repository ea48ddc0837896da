"""RQ-VAE: an autoencoder whose latent vector is quantised residually, trained by gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mmrec.codes.quantiser import (
    Codes,
    Fitted,
    Rows,
    Settings,
    Tensors,
    as_tensor,
    child_seed,
    in_blocks,
    squared_distances,
)
from mmrec.codes.residual import ResidualQuantiser, begin_codebooks, restart_dead
from mmrec.codes.sinkhorn import balanced_assignment, potentials
from mmrec.errors import FeatureError
from mmrec.progress import Progress

RESTART_SHARE = 2 / 3  # of the training; after it the codebooks are left to settle


class RQVAESettings(Settings):
    """Settings of RQ-VAE."""

    hidden: tuple[int, ...] = Field((512, 256, 128), description="widths of the encoder's hidden layers")
    latent: int = Field(32, ge=1)
    beta: float = Field(0.25, ge=0, description="weight of the commitment term")
    epochs: int = Field(500, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    restart_every: int = Field(10, ge=0, description="epochs between restarts of dead codes; 0: never")
    sinkhorn: float = Field(0.0, ge=0, description="eps of balanced assignment at the last level; 0: nearest")


@dataclass(frozen=True, eq=False)
class Pass:
    """What a batch becomes on its way through the model.

    Attributes:
        rows: ``(b, d)`` standardised inputs.
        rebuilt: ``(b, d)`` what the decoder makes of the quantised latents.
        quantised: ``(b, latent)`` with the gradient of the latents (straight-through).
        codes: ``(b, levels)``.
        residuals: ``(b, latent)`` for each level, what it quantises.
        chosen: ``(b, latent)`` for each level, the code vectors it chose.
    """

    rows: Tensor
    rebuilt: Tensor
    quantised: Tensor
    codes: Tensor
    residuals: Sequence[Tensor]
    chosen: Sequence[Tensor]


class RQVAE(nn.Module):
    """Residual-quantised autoencoder.

    With the latent ``z = E(x)``, ``r_0 = z``, ``c_l = argmin_k |r_l - e^l_k|²``, ``r_{l+1} = r_l - sg[e^l_{c_l}]`` and
    ``x̂ = D(z + sg[Σ_l e^l_{c_l} - z])``, a batch's loss is the mean over its items of

        |x - x̂|² + Σ_l (|sg[r_l] - e^l_{c_l}|² + β |r_l - sg[e^l_{c_l}]|²),

    sums over dimensions: a mean over the dimensions of x would make reconstruction hundreds of times weaker than the
    other terms, and all codes collapse. Inputs are standardised by column, codebooks begin as k-means of the residuals,
    and codes that nothing chose become residuals of random items during the first two thirds of the training.

    Args:
        dim: Width d of the inputs.
        settings: Widths, levels, weights.

    Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023.
    """

    kind: ClassVar[str] = "rqvae"
    mean: Tensor
    spread: Tensor
    offsets: Tensor

    def __init__(self, dim: int, settings: RQVAESettings) -> None:
        super().__init__()
        self.settings = settings
        widths = (dim, *settings.hidden, settings.latent)
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.codebooks = nn.ParameterList(
            torch.randn(settings.size, settings.latent) for _ in range(settings.levels)
        )
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("offsets", torch.zeros(settings.size))  # of the last level

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many codes each level has."""
        return (self.settings.size,) * self.settings.levels

    def run(self, inputs: Tensor) -> Pass:
        """Encode, quantise and decode inputs ``(b, d)``."""
        rows = (inputs - self.mean) / self.spread
        latents = self.encoder(rows)
        codes, residuals, chosen = [], [], []
        residual = latents
        for level, codebook in enumerate(self.codebooks):
            own = self._assign(level, squared_distances(residual.detach(), codebook.detach()))
            codes.append(own)
            residuals.append(residual)
            chosen.append(nn.functional.embedding(own, codebook))
            residual = residual - chosen[-1].detach()
        total = torch.stack(chosen).sum(0)
        quantised = latents + (total - latents).detach()
        return Pass(rows, self.decoder(quantised), quantised, torch.stack(codes, 1), residuals, chosen)

    def _assign(self, level: int, costs: Tensor) -> Tensor:
        if self.settings.sinkhorn and level == self.settings.levels - 1:
            return balanced_assignment(costs, self.settings.sinkhorn)
        return costs.argmin(1)

    def terms(self, done: Pass, items: Tensor) -> dict[str, Tensor]:
        """Named terms of the loss for a pass over ``items (b,)``, rows of the training inputs."""
        codebook = commitment = done.rows.new_zeros(())
        for residual, chosen in zip(done.residuals, done.chosen, strict=True):
            codebook = codebook + (residual.detach() - chosen).square().sum(1).mean()
            commitment = commitment + (residual - chosen.detach()).square().sum(1).mean()
        reconstruction = (done.rows - done.rebuilt).square().sum(1).mean()
        return {
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": self.settings.beta * commitment,
        }

    def on_epoch(self, epoch: int) -> None:
        """Called before each epoch, from 0 on."""

    @torch.no_grad()
    def prepare(self, inputs: Tensor, generator: torch.Generator) -> None:
        """Learn the columns' means and spreads from inputs ``(n, d)``, and codebooks by k-means on residuals."""
        self.mean.copy_(inputs.mean(0))
        spread = inputs.std(0, correction=0)
        # a column that hardly varies holds rounding errors only: dividing by them would make them the loudest
        self.spread.copy_(torch.where(spread > 1e-6 * spread.max(), spread, 1.0))
        begin_codebooks(self.codebooks, self._latents(inputs), generator)

    @torch.no_grad()
    def restart(self, inputs: Tensor, counts: Tensor, generator: torch.Generator) -> int:
        """Move the codes with ``counts (levels, K)`` of zero to residuals of random inputs; how many these were."""
        return restart_dead(self.codebooks, self._latents(inputs), counts, generator)

    @torch.no_grad()
    def settle(self, inputs: Tensor) -> None:
        """Balance the last level for good, where it is balanced at all."""
        if self.settings.sinkhorn:
            latents = self._latents(inputs)
            codes = torch.from_numpy(self._residual().encode(latents.numpy()))
            costs = self._residual().last_costs(latents.numpy(), codes.numpy())
            self.offsets.copy_(potentials(torch.from_numpy(costs), self.settings.sinkhorn)[1])

    def _latents(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.encoder((block - self.mean) / self.spread) for block in in_blocks(inputs)])

    def _residual(self) -> ResidualQuantiser:
        codebooks = [codebook.detach() for codebook in self.codebooks]
        offsets = [self.offsets.new_zeros(len(codebook)) for codebook in codebooks[:-1]]
        return ResidualQuantiser.of(codebooks, [*offsets, self.offsets])

    @torch.no_grad()
    def encode(self, vectors: Rows) -> Codes:
        """Codes ``(n, levels)`` of vectors ``(n, d)``."""
        return self._residual().encode(self._latents(as_tensor(vectors)).numpy())

    @torch.no_grad()
    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)`` that codes ``(n, levels)`` stand for."""
        latents = torch.from_numpy(self._residual().decode(codes))
        rebuilt = self.decoder(latents) * self.spread + self.mean
        return np.asarray(rebuilt.numpy())

    @torch.no_grad()
    def last_costs(self, vectors: Rows, codes: Codes) -> Rows:
        """Squared residual ``(n, K)`` in the latent space that each code of the last level would leave."""
        return self._residual().last_costs(self._latents(as_tensor(vectors)).numpy(), codes)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        settings = {name: getattr(self.settings, name) for name in RQVAESettings.model_fields}
        return self.state_dict(), {"dim": len(self.mean), "settings": settings}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The quantiser that gave this state."""
        with torch.random.fork_rng(devices=[]):
            model = cls(metadata["dim"], RQVAESettings(**metadata["settings"]))
        model.load_state_dict(dict(tensors))
        return model.eval()


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them, Xavier-normal."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    model: RQVAE, inputs: Tensor, generator: torch.Generator, title: str, *, show_progress: bool
) -> dict[str, float]:
    """Train a prepared model on inputs ``(n, d)``.

    Returns:
        Means of the loss's terms in the last epoch.

    Raises:
        FeatureError: The loss is not finite.
    """
    settings = model.settings
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    counts = torch.zeros(settings.levels, settings.size, dtype=torch.int64)
    restarts = range(
        settings.restart_every, int(settings.epochs * RESTART_SHARE) + 1, settings.restart_every or 1
    )
    means: dict[str, float] = {}
    with Progress(title, settings.epochs, unit="epochs", show=show_progress) as progress:
        for epoch in range(settings.epochs):
            if settings.restart_every and epoch in restarts:
                model.restart(inputs, counts, generator)
                counts.zero_()
            model.on_epoch(epoch)
            totals: dict[str, Tensor] = {}
            for items in torch.split(torch.randperm(len(inputs), generator=generator), settings.batch_size):
                done = model.run(inputs[items])
                terms = model.terms(done, items)
                optimizer.zero_grad()
                torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                for level, own in enumerate(done.codes.T):
                    counts[level] += torch.bincount(own, minlength=settings.size)
                for name, value in terms.items():
                    totals[name] = totals.get(name, value.new_zeros(())) + value.detach() * len(items)
            means = {name: float(total) / len(inputs) for name, total in totals.items()}
            if not np.isfinite(list(means.values())).all():
                raise FeatureError(
                    "a finite loss",
                    f"{means} in epoch {epoch + 1}",
                    f"train more carefully: lr={settings.lr / 10:g}",
                )
            progress.advance(detail=f"loss {sum(means.values()):.4g}")
    model.settle(inputs)
    return means


def build(dim: int, settings: RQVAESettings, generator: torch.Generator, kind: type[RQVAE] = RQVAE) -> RQVAE:
    """A new model whose initial values depend on the generator alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(child_seed(generator))
        return kind(dim, settings)


def fit(
    vectors: Rows,
    fitted: NDArray[np.bool_],
    settings: RQVAESettings,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> Fitted:
    """RQ-VAE of vectors ``(n_items, d)``, learned from the rows marked in ``fitted (n_items,)``.

    Raises:
        FeatureError: The loss is not finite.
    """
    inputs = as_tensor(vectors[fitted])
    model = build(inputs.shape[1], settings, generator)
    model.prepare(inputs, generator)
    notes = train(model, inputs, generator, "rq-vae", show_progress=show_progress)
    return Fitted(model.eval(), vectors, notes=notes)
