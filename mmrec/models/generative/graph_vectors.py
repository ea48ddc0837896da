"""GraphVectors: what a graph network's vectors are worth by themselves."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmrec.codes.table import CodeTable
from mmrec.data.dataset import TrainingData
from mmrec.errors import FeatureError
from mmrec.models.contracts import ModelConfig, Users


class Config(ModelConfig):
    """GraphVectors has nothing to set."""


class GraphVectors(nn.Module):
    """``s(u, i) = <h_u, h_i>`` with the frozen vectors of Graph RQ-VAE (``mmrec tokenize --method graph-rqvae``).

    The bar for :class:`mmrec.models.generative.mmgrec.MMGRec`, which reads the same vectors: a generator below it would
    have lost by quantising and spelling.
    """

    config_type: ClassVar = Config
    batches: ClassVar = None
    modalities: ClassVar = "none"
    codes: ClassVar = "one"
    cold_items: ClassVar = True
    knows_users: ClassVar = True
    users: Tensor
    items: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        users, items = graph_vectors(data)
        self.register_buffer("users", torch.zeros_like(users))
        self.register_buffer("items", torch.zeros_like(items))

    def fit(self, data: TrainingData) -> None:
        """Take the vectors."""
        self.users, self.items = graph_vectors(data)

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``."""
        return self.users[torch.from_numpy(users.ids).to(self.users.device)] @ self.items.T


def graph_vectors(data: TrainingData) -> tuple[Tensor, Tensor]:
    """Vectors ``(n_users, d)`` and ``(n_items, d)`` that the tokeniser of the one table of codes has kept.

    Raises:
        FeatureError: It has kept none, or they are of other users or items.
    """
    table: CodeTable
    (table,) = data.codes.values()
    again = "tokenize with --method graph-rqvae and name those codes in the config"
    found = [table.array(name) for name in ("user_vectors", "item_vectors")]
    if found[0] is None or found[1] is None:
        raise FeatureError("codes with a graph network's user_vectors and item_vectors", table.name, again)
    users, items = (torch.from_numpy(array.astype("float32")) for array in found if array is not None)
    if (len(users), len(items)) != (data.n_users, data.n_items):
        raise FeatureError(
            f"vectors of {data.n_users:,} users and {data.n_items:,} items",
            f"{len(users):,} and {len(items):,} in {table.name}",
            again,
        )
    return users, items
