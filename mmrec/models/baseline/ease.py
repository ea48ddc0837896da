"""EASE: item-to-item regression in closed form, with item features as further rows to reconstruct."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.linalg import lapack
from torch import Tensor, nn

from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError
from mmrec.graph import SparseMatrix, propagate
from mmrec.models.contracts import ModelConfig, Users

BLOCK = 1024  # rows that are worked on at once
COPIES = 3  # of the matrix, at the moment the run saves it
Weight = Annotated[float, Field(ge=0)]


class Config(ModelConfig):
    """Hyper-parameters of EASE."""

    l2: float = Field(100.0, gt=0, description="weight of the squared weights: higher trusts the data less")
    feature_weight: Weight | dict[str, Weight] = Field(
        10.0, description="weight of the feature rows: one number, or one for each modality by name"
    )
    memory_gib: float = Field(8.0, gt=0, description="refuse catalogues whose matrix would need more memory")


class EASE(nn.Module):
    """``s(u) = x_u B`` with the B, zero on its diagonal, that best predicts each item from all others.

    ``B = argmin |X - X B|² + Σ_m w_m |F_m^T - F_m^T B|² + l2 |B|²`` subject to ``diag B = 0``; in closed form
    ``B = I - P diag(P)^-1`` with ``P = (X^T X + Σ_m w_m F_m F_m^T + l2 I)^-1``. X are the training interactions, F_m
    the features of modality m scaled to rows of length 1, so that w_m counts in users: an item that lacks a modality
    has a zero row there and neither predicts nor is predicted by it. Without features this is EASE; with them every
    feature column is one more "user", and items that nobody has are predicted from what resembles them. No training.

    The matrix has n_items² entries and inverting it costs n_items³ operations.

    Sources: Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019; the collective form with side
    information: Jeunen, Van Balen, Goethals, "Closed-Form Models for Collaborative Filtering with Side-Information",
    RecSys 2020, with real-valued features in place of tags.
    """

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True  # with features
    weights: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        _check_memory(data.n_items, config.memory_gib)
        self.by_modality = _weights_by_modality(config.feature_weight, list(data.features))
        self.register_buffer("weights", torch.zeros(0, 0))

    def fit(self, data: TrainingData) -> None:
        """Solve for B in the memory of one matrix.

        Raises:
            ConfigError: ``l2`` is too small for the matrix to be inverted.
        """
        matrix = self._gram(data)
        _invert(matrix)
        matrix /= -matrix.diagonal().copy()
        np.fill_diagonal(matrix, 0)
        self.weights = torch.from_numpy(matrix)

    def _gram(self, data: TrainingData) -> np.ndarray:
        """``X^T X + Σ_m w_m F_m F_m^T + l2 I``, float32 ``(n_items, n_items)``."""
        matrix = np.empty((data.n_items, data.n_items), dtype=np.float32)
        likes = data.train.matrix(data.n_items)
        liked_by = likes.T.tocsr()
        features = [
            (np.float32(weight), _unit_rows(data.features[modality]))
            for modality, weight in self.by_modality.items()
            if weight > 0
        ]
        for start in range(0, data.n_items, BLOCK):
            rows = slice(start, start + BLOCK)
            matrix[rows] = (liked_by[rows] @ likes).toarray()
            for weight, vectors in features:
                matrix[rows] += weight * (vectors[rows] @ vectors.T)
        matrix[np.diag_indices(data.n_items)] += np.float32(self.config.l2)
        return matrix

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``: the sum of the rows of B of each user's items."""
        items, offsets = (torch.from_numpy(part) for part in (users.histories.items, users.histories.offsets))
        history = SparseMatrix(offsets, items, torch.ones(len(items)), len(self.weights))
        return propagate(history.to(self.weights.device), self.weights)


def _unit_rows(table: FeatureTable) -> np.ndarray:
    """Vectors ``(n_items, d)`` of length 1; zero where an item lacks the modality."""
    return F.normalize(table.tensor() * torch.tensor(table.present)[:, None], dim=1).numpy()


def _weights_by_modality(weight: float | dict[str, float], modalities: list[str]) -> dict[str, float]:
    if not isinstance(weight, dict):
        return dict.fromkeys(sorted(modalities), weight)
    if weight.keys() != set(modalities):
        raise ConfigError(
            f"feature_weight: one number, or one for each of: {', '.join(sorted(modalities)) or 'no features'}",
            f"weights of: {', '.join(sorted(weight)) or 'none'}",
            "name exactly the modalities in the config's features (0 leaves one out)",
        )
    return dict(sorted(weight.items()))


def _check_memory(n_items: int, limit_gib: float) -> None:
    needed = COPIES * 4 * n_items**2 / 2**30
    if needed > limit_gib:
        most = math.isqrt(int(limit_gib * 2**30 / (COPIES * 4)))
        raise ConfigError(
            f"at most {most:,} items, whose matrix needs {limit_gib:g} GiB (params.memory_gib)",
            f"{n_items:,} items: {COPIES} × {n_items:,}² × 4 bytes = {needed:,.1f} GiB",
            "choose rp3beta, whose weights are sparse, or raise params.memory_gib if the machine has that much",
        )


def _invert(matrix: np.ndarray) -> None:
    """Invert a symmetric positive definite matrix in its own memory, by Cholesky factors.

    Raises:
        ConfigError: It is not positive definite in float32.
    """
    factor, failed = lapack.spotrf(matrix.T, lower=0, overwrite_a=1)  # the transpose is in LAPACK's order
    if not failed:
        _, failed = lapack.spotri(factor, lower=0, overwrite_c=1)
    if failed:
        raise ConfigError("a matrix that can be inverted", "one that cannot", "raise params.l2")
    for start in range(0, len(matrix), BLOCK):  # only the lower half was written
        rows = slice(start, start + BLOCK)
        matrix[rows, start + BLOCK :] = matrix[start + BLOCK :, rows].T
        own = np.tril(matrix[rows, rows])
        matrix[rows, rows] = own + np.tril(own, -1).T
