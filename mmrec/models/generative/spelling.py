"""What models that spell semantic IDs share: embeddings of codes, the decoder, the loss, and the way into a beam search."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.codes.table import CodeTable
from mmrec.codes.trie import Trie
from mmrec.models.contracts import ModelConfig
from mmrec.nn import ScaledEmbedding, gather
from mmrec.transformer import Decoder, Shape, Spelling


class SpellingConfig(ModelConfig):
    """Hyper-parameters that all models share that spell IDs with a transformer."""

    dim: int = Field(128, ge=1, description="width of the states")
    inner: int = Field(1024, ge=1, description="width inside the position-wise networks")
    heads: int = Field(6, ge=1, description="attention heads")
    head_dim: int = Field(64, ge=1, description="width of a head")
    layers: int = Field(4, ge=1, description="blocks of the encoder, and of the decoder")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values left out in training")
    softmax: Literal["level", "permitted"] = Field(
        "level",
        description="in training a code competes with its level, or with those that can follow in the trie",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="of the softmax in training: below 1 the hardest wrong codes weigh more (LETTER)",
    )
    beams: int = Field(
        20, ge=1, description="beams of each user, at least; the length of the list if that is more"
    )
    normalize: Literal["level", "permitted"] = Field(
        "level",
        description="in generation a code's probability is among its level, or among those that can follow",
    )


def shape_of(config: SpellingConfig) -> Shape:
    """The sizes of encoder and decoder."""
    return Shape(config.dim, config.inner, config.heads, config.head_dim, config.layers, config.dropout)


class SemanticIDs(nn.Module):
    """Embeddings of the codes, each level with its own, and a decoder that spells the next item's codes.

    The first embedding that the decoder reads says that an ID begins; the logits of level l are inner products of its
    states with that level's embeddings, divided by the root of their width (T5's shared table).

    Args:
        table: Semantic IDs.
        config: Sizes and loss.
    """

    codes: Tensor
    offsets: Tensor

    def __init__(self, table: CodeTable, config: SpellingConfig) -> None:
        super().__init__()
        self.config, self.trie = config, Trie(table)
        self.embedding = ScaledEmbedding(sum(table.sizes), config.dim)
        self.begin = nn.Parameter(torch.randn(config.dim))
        self.decoder = Decoder(shape_of(config))
        offsets = torch.tensor([0, *table.sizes]).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer(
            "codes", torch.from_numpy(table.codes).long()
        )  # saved: weights are of these codes

    def rows(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``(b, t * levels, dim)`` of the codes of items ``(b, t)``, and which are there (-1 is padding)."""
        tokens = self.codes[items.clamp(min=0)] + self.offsets
        present = (items >= 0).repeat_interleave(self.trie.levels, 1)
        return gather(self.embedding(), tokens.flatten(1)) * present[..., None], present

    def logits(self, states: Tensor, level: int) -> Tensor:
        """``(…, size of the level)`` from states ``(…, dim)``."""
        start = int(self.offsets[level])
        return F.linear(states, self.embedding.weight[start : start + self.trie.sizes[level]])

    def states(self, memory: Tensor, present: Tensor, targets: Tensor) -> Tensor:
        """The decoder's states ``(n, levels, dim)`` before each code of the targets ``(n,)``.

        Args:
            memory: The encoder's states ``(b, t, dim)``.
            present: ``(b, t)`` False at padding.
            targets: Items to spell; the first n / b from the first row of the memory, the next from the second.
        """
        spelt = gather(self.embedding(), (self.codes[targets] + self.offsets)[:, :-1])
        rows = torch.cat([self.begin.expand(len(targets), 1, -1), spelt], 1)
        states: Tensor = self.decoder(rows, self.decoder.read(memory, present))
        return states

    def loss(self, memory: Tensor, present: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Mean cross-entropy of each level's code of the targets ``(n,)``; their sum is that of the whole ID.

        See :meth:`states` for the arguments.
        """
        return self.code_losses(self.states(memory, present, targets), targets)

    def code_losses(self, states: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """:meth:`loss` from :meth:`states`."""
        codes, terms = self.codes[targets], {}
        for level in range(self.trie.levels):
            logits = self.logits(states[:, level], level).float() / self.config.temperature
            if self.config.softmax == "level":
                terms[f"code_{level}"] = F.cross_entropy(logits, codes[:, level])
            else:
                terms[f"code_{level}"] = self._permitted_loss(logits, level, targets)
        return terms

    def _permitted_loss(self, logits: Tensor, level: int, targets: Tensor) -> Tensor:
        """Cross-entropy among the codes that can follow the target's own prefix; 0 where only one can."""
        paths = self.trie.paths[targets]
        children = self.trie.following(level, paths[:, level])
        own = logits.gather(1, children.codes).masked_fill(~children.exist, -torch.inf)
        return F.cross_entropy(own, paths[:, level + 1] - children.nodes[:, 0])

    def speller(self, memory: Tensor, present: Tensor) -> Speller:
        """What beam search asks; the memory's keys and values are made here, once for each user."""
        return Speller(self, self.decoder.read(memory, present), len(memory))


class Speller:
    """:class:`mmrec.beam.Speller` of :class:`SemanticIDs`."""

    def __init__(self, ids: SemanticIDs, spelling: Spelling, n_users: int) -> None:
        self.ids, self.spelling, self.n_users = ids, spelling, n_users

    def start(self) -> Tensor:
        """Logits of the first code."""
        self.spelling.own, self.spelling.parents = [], None
        return self._next(self.ids.begin.expand(self.n_users, 1, -1), 0)

    def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits of the next code."""
        self.spelling.follow(parents)
        return self._next(gather(self.ids.embedding(), codes + self.ids.offsets[level - 1]), level)

    def select(self, users: Tensor) -> Self:
        """The same for some users."""
        return type(self)(self.ids, self.spelling.select(users), len(users))

    def _next(self, rows: Tensor, level: int) -> Tensor:
        return self.ids.logits(self.ids.decoder.step(rows, self.spelling), level)
