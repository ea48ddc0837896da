"""LETTER: an RQ-VAE whose codes also agree with collaborative vectors, and whose code vectors are kept diverse."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mmrec import losses
from mmrec.codes.kmeans import balanced_groups
from mmrec.codes.quantiser import Fitted, Rows, as_tensor, child_seed
from mmrec.codes.rqvae import RQVAE, Pass, RQVAESettings, build, train
from mmrec.errors import ConfigError


class LetterSettings(RQVAESettings):
    """Settings of LETTER; with ``alpha`` and ``diversity`` 0 it is RQ-VAE."""

    levels: int = Field(4, ge=1, le=256)
    sinkhorn: float = Field(0.003, ge=0)
    alpha: float = Field(0.01, ge=0, description="weight of the alignment with collaborative vectors")
    diversity: float = Field(1e-4, ge=0, description="weight of the diversity of code vectors")
    groups: int = Field(10, ge=2, description="groups of like code vectors in each codebook")
    regroup_every: int = Field(50, ge=1, description="epochs between two groupings")
    unit_targets: bool = Field(True, description="scale collaborative vectors to length one")


class Letter(RQVAE):
    """Adds to RQ-VAE's loss, d being the width of its inputs,

        d (α L_cf + δ mean_l L_div^l).

    ``L_cf = -mean_i log softmax_j(<ẑ_i, s_j>)_i`` over a batch, with the quantised latents ẑ (straight-through) and
    collaborative vectors s, aligns what codes say with who buys what. ``L_div = -mean log softmax_{j≠k}(<e_k, e_j>)_{k+}``
    for each chosen code k and a random other code k+ of its group draws groups of code vectors together, so that their
    codes are interchangeable and items spread over them. Groups are balanced k-means of a codebook.

    The paper's other terms are means over dimensions, RQ-VAE's here are sums; the factor d keeps the paper's balance.

    Source: Wang et al., "Learnable Item Tokenization for Generative Recommendation", CIKM 2024.
    """

    settings: LetterSettings

    def align(self, targets: Tensor | None, known: Tensor | None, generator: torch.Generator | None) -> None:
        """Give what the additional terms need.

        Args:
            targets: ``(n, latent)`` collaborative vectors of the training inputs; None without alignment.
            known: ``(n,)`` which of them there are.
            generator: For draws of positives and for groups; None without the diversity term.
        """
        self._targets, self._known, self._generator = targets, known, generator
        self._groups: list[Tensor] = []

    def on_epoch(self, epoch: int) -> None:
        """Group the code vectors again where it is time."""
        if self._generator is not None and epoch % self.settings.regroup_every == 0:
            groups = min(self.settings.groups, max(2, self.settings.size // 2))
            self._groups = [
                balanced_groups(codebook.detach(), groups, self._generator) for codebook in self.codebooks
            ]

    def terms(self, done: Pass, items: Tensor) -> dict[str, Tensor]:
        """Named terms of the loss."""
        terms = super().terms(done, items)
        dim = done.rows.shape[1]
        if self._targets is not None and self._known is not None:
            known = self._known[items]
            if known.any():
                aligned = alignment(done.quantised[known], self._targets[items[known]])
                terms["alignment"] = dim * self.settings.alpha * aligned
        if self._generator is not None:
            of_levels = [
                diversity(codebook, own, groups, self._generator)
                for codebook, own, groups in zip(self.codebooks, done.codes.T, self._groups, strict=True)
            ]
            terms["diversity"] = dim * self.settings.diversity * torch.stack(of_levels).mean()
        return terms


def alignment(latents: Tensor, targets: Tensor) -> Tensor:
    """``-mean_i log softmax_j(<z_i, s_j>)_i`` of rows ``(b, d)``: plain inner products, no temperature."""
    return (losses.log_partition(latents, targets) - (latents * targets).sum()) / len(latents)


def diversity(codebook: Tensor, codes: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """``-mean log softmax_{j≠k}(<e_k, e_j>)_{k+}`` over the codes k ``(b,)``, k+ another code of k's group.

    Codes alone in their group are left out.

    Args:
        codebook: ``(K, d)``.
        codes: ``(b,)``.
        groups: ``(K,)`` group of each code.
        generator: Draws k+.
    """
    positives = draw_positives(codes, groups, generator)
    found = positives >= 0
    if not found.any():
        return codebook.sum() * 0
    logits = codebook @ codebook.T  # once for all items: a batch has more of them than a book has codes
    own = torch.eye(len(codebook), dtype=torch.bool)
    shares = logits.masked_fill(own, -torch.inf).log_softmax(1)
    drawn: Tensor = shares[codes[found], positives[found]]
    return -drawn.mean()


def draw_positives(codes: Tensor, groups: Tensor, generator: torch.Generator) -> Tensor:
    """For each code ``(b,)`` another one of its group, uniformly; -1 where it is alone."""
    member = groups[:, None] == groups[None, :]
    member.fill_diagonal_(False)
    weights = member[codes].float()
    lonely = ~member.any(1)[codes]
    weights[lonely, 0] = 1  # multinomial wants something to draw
    drawn = torch.multinomial(weights, 1, generator=generator).squeeze(1)
    return drawn.masked_fill(lonely, -1)


def fit_width(targets: Tensor, width: int) -> Tensor:
    """Rows ``(n, width)`` whose inner products with one another are those of ``(n, d)`` as nearly as possible."""
    if targets.shape[1] <= width:
        return torch.nn.functional.pad(targets, (0, width - targets.shape[1]))
    left, spread, _ = torch.linalg.svd(targets, full_matrices=False)
    fitting: Tensor = left[:, :width] * spread[:width]
    return fitting


def fit(
    vectors: Rows,
    fitted: NDArray[np.bool_],
    settings: LetterSettings,
    generator: torch.Generator,
    *,
    targets: tuple[Rows, NDArray[np.bool_]] | None = None,
    show_progress: bool = True,
) -> Fitted:
    """LETTER of vectors ``(n_items, d)``, learned from the rows marked in ``fitted (n_items,)``.

    Args:
        vectors: What is tokenised.
        fitted: Rows to learn from.
        settings: Settings.
        generator: All draws.
        targets: Collaborative vectors ``(n_items, d_c)`` of a trained run, and which of them ``(n_items,)`` are known.
        show_progress: Show progress on stderr.

    Raises:
        ConfigError: Alignment is asked for, and there are no collaborative vectors.
        FeatureError: The loss is not finite.
    """
    if settings.alpha and targets is None:
        raise ConfigError(
            "a trained run whose item vectors the codes are aligned with",
            f"none, and alpha {settings.alpha:g}",
            "name one with --run, or leave alignment out: --set alpha=0",
        )
    inputs = as_tensor(vectors[fitted])
    model = build(inputs.shape[1], settings, generator, Letter)
    assert isinstance(model, Letter)
    model.prepare(inputs, generator)
    wanted = known = None
    if settings.alpha and targets is not None:
        own = as_tensor(targets[0][fitted])
        if settings.unit_targets:
            own = torch.nn.functional.normalize(own, dim=1)
        wanted, known = fit_width(own, settings.latent), torch.from_numpy(targets[1][fitted])
    draws = torch.Generator().manual_seed(child_seed(generator)) if settings.diversity else None
    model.align(wanted, known, draws)
    notes = train(model, inputs, generator, "letter", show_progress=show_progress)
    return Fitted(model.eval(), vectors, notes=notes)
