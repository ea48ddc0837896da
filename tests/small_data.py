"""Small random data of which tests know what is absent."""

from __future__ import annotations

import numpy as np
import torch

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable

N_USERS, N_ITEMS = 11, 14


def data_of(likes: np.ndarray, features: dict[str, FeatureTable] | None = None) -> TrainingData:
    """Training data whose pairs are the true entries ``(n_users, n_items)``."""
    users, items = np.nonzero(likes)
    return TrainingData(*likes.shape, Histories.from_pairs(users, items, len(likes)), features or {})


def likes_of(data: TrainingData) -> np.ndarray:
    """``(n_users, n_items)``: 1 at the training pairs."""
    matrix = np.zeros((data.n_users, data.n_items))
    matrix[data.train.users, data.train.items] = 1
    return matrix


def small_data(*modalities: str, missing: bool = False, seed: int = 0) -> TrainingData:
    """Random likes and features; the last item is never liked; with ``missing`` item 2 lacks everything."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.35
    likes[:, -1] = False
    absent = {"text": [2, 5, 6], "image": [2, 7], "audio": [9]}
    features = {}
    for modality, dim in (("text", 5), ("image", 7), ("audio", 4)):
        vectors = rng.normal(size=(N_ITEMS, dim)).astype(np.float32)
        present = np.ones(N_ITEMS, dtype=bool)
        if missing:
            present[absent[modality]] = False
            vectors[~present] = 0
        if modality in modalities:
            features[modality] = FeatureTable(f"{modality}-test", modality, vectors, present)
    return data_of(likes, features)


def random_batch(data: TrainingData, size: int = 40, seed: int = 0) -> PairBatch:
    """Triples with repeated users and items; the formulas do not ask that positives be real ones."""
    rng = np.random.default_rng(seed)
    triples = [rng.integers(0, high, size) for high in (data.n_users, data.n_items, data.n_items)]
    return PairBatch(*(torch.from_numpy(ids) for ids in triples))


def shares(modalities: list[str], image_weight: float) -> dict[str, float]:
    """``a_image = image_weight``; the rest is shared evenly."""
    if len(modalities) == 1 or "image" not in modalities:
        return {m: 1 / len(modalities) for m in modalities}
    rest = (1 - image_weight) / (len(modalities) - 1)
    return {m: image_weight if m == "image" else rest for m in modalities}
