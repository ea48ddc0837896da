"""TIGER: an encoder reads the codes of a history, a decoder spells those of the next item."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec.attention import trim_padding
from mmrec.codes.trie import Trie
from mmrec.data.batches import SequenceBatch, last_items
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import Users
from mmrec.models.generative.spelling import SemanticIDs, Speller, SpellingConfig, shape_of
from mmrec.nn import ScaledEmbedding, gather
from mmrec.transformer import Encoder, RelativeBias, hide_padding


class Config(SpellingConfig):
    """Hyper-parameters of TIGER."""

    max_length: int = Field(20, ge=1, description="how many of a user's last items are read")
    user_buckets: int = Field(
        1, ge=1, description="users share this many embeddings at the front; 1 is the same for everybody"
    )


class TIGER(nn.Module):
    """``p(i | history) = Π_l p(c_l | c_<l, history)``: the codes of the next item, each given those before it.

    The history's items are read as the codes of their semantic IDs, level after level, behind one embedding of the user
    (``id mod user_buckets``). Encoder and decoder are T5's (:mod:`mmrec.transformer`). Trained on every item of a
    history as the target of those before it.

    With LETTER's codes and ``temperature`` this is LETTER-TIGER.

    Source: Rajput et al., "Recommender Systems with Generative Retrieval", NeurIPS 2023; Wang et al., "Learnable Item
    Tokenization for Generative Recommendation", CIKM 2024, for the temperature. TIGER decodes freely and drops IDs that
    no item has; here beams never leave the trie.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "sequences"
    modalities: ClassVar = "none"
    codes: ClassVar = "one"
    cold_items: ClassVar = True
    grows: ClassVar = True

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length = config, config.max_length
        self.knows_users = config.user_buckets > 1
        (table,) = data.codes.values()
        self.ids = SemanticIDs(table, config)
        self.users = ScaledEmbedding(config.user_buckets, config.dim)
        self.bias = RelativeBias(config.heads, both_ways=True)
        self.encoder = Encoder(shape_of(config))

    @property
    def trie(self) -> Trie:
        """The IDs that there are."""
        return self.ids.trie

    def _encode(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(b, 1 + t * levels, dim)`` of users ``(b,)`` and items ``(b, t)``, and which are there."""
        items = trim_padding(items)
        rows, present = self.ids.rows(items)
        user = gather(self.users(), users[:, None] % self.config.user_buckets)
        rows = torch.cat([user, rows], 1)
        present = torch.cat([present.new_ones(len(users), 1), present], 1)
        places = torch.arange(rows.shape[1], device=rows.device)
        states: Tensor = self.encoder(rows, hide_padding(self.bias(places, places), present))
        return states, present

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the codes of each level."""
        return self.ids.loss(*self._encode(batch.users, batch.items), batch.targets)

    def speller(self, users: Users) -> Speller:
        """What spells the next items of a block of users."""
        items, _ = last_items(users.histories, self.max_length)
        device = self.ids.begin.device
        return self.ids.speller(*self._encode(torch.from_numpy(users.ids).to(device), items.to(device)))
