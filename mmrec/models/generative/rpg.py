"""RPG: a long ID of unordered codes, all of them predicted at once."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.attention import CausalEncoder, last_states, trim_padding
from mmrec.data.batches import HistoryBatch, last_items
from mmrec.data.dataset import TrainingData
from mmrec.losses import softmax_cross_entropy
from mmrec.models.contracts import ModelConfig, Users
from mmrec.nn import gather


class Config(ModelConfig):
    """Hyper-parameters of RPG."""

    dim: int = Field(128, ge=1, description="width of the states")
    blocks: int = Field(2, ge=1, description="attention blocks")
    heads: int = Field(2, ge=1, description="attention heads, a divisor of dim")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of values left out in training")
    max_length: int = Field(50, ge=1, description="how many of a user's last items are read")
    temperature: float = Field(0.07, gt=0, description="a code's score is a cosine divided by it")
    search: Literal["exact", "graph"] = Field(
        "exact", description="score every item, or walk a graph of items with similar codes"
    )
    edges: int = Field(50, ge=1, description="search graph: neighbours of an item")
    beams: int = Field(50, ge=1, description="search graph: items kept from step to step")
    steps: int = Field(3, ge=1, description="search graph: steps")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class RPG(nn.Module):
    """``s(u, i) = 1/m Σ_j log p_j(c_ij)`` with ``p_j = softmax(cos(g_j(f_t), E_j) / τ)`` for each of the m codes.

    An item is read as the mean of its codes' embeddings; f_t is the state of a causal transformer after the last item
    and ``g_j(f) = f + W SiLU(W_j f)`` a head for each code. Trained on all next items of a history at once, with the mean
    cross-entropy of the codes. The codes are those of product quantisation (``mmrec tokenize --method opq``): they have no
    order, so nothing has to be spelt one after the other. The score of an item is m look-ups.

    ``search: graph`` does not score everything: from random items it goes, ``steps`` times, to the neighbours in a graph of
    items whose codes have similar embeddings and keeps the best; with as many edges as items it is exact.

    Source: Hou et al., "Generating Long Semantic IDs in Parallel for Recommendation", KDD 2025. Its GPT-2 is
    :class:`mmrec.attention.CausalEncoder` here; the form of the heads is ours.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "histories"
    modalities: ClassVar = "none"
    codes: ClassVar = "one"
    cold_items: ClassVar = True
    offsets: Tensor
    places: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length = config, config.max_length
        self._graph: Tensor | None = None
        (table,) = data.codes.values()
        self.sizes = table.sizes
        offsets = torch.tensor([0, *table.sizes]).cumsum(0)[:-1]
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer(
            "places", torch.from_numpy(table.codes) + offsets
        )  # saved: weights are of these codes
        self.embedding = nn.Parameter(torch.randn(sum(table.sizes), config.dim) * config.dim**-0.5)
        self.encoder = CausalEncoder(
            config.dim, config.blocks, config.heads, config.max_length, config.dropout
        )
        self.heads = nn.Linear(config.dim, table.levels * config.dim)
        self.out = nn.Linear(config.dim, config.dim, bias=False)

    def _items(self) -> Tensor:
        """``(n_items, dim)`` means of the items' codes."""
        return F.embedding_bag(self.places, self.embedding, mode="mean")

    def _encode(self, items: Tensor) -> Tensor:
        rows = gather(self._items(), items.clamp(min=0)) * (items >= 0)[..., None]
        states: Tensor = self.encoder(rows * self.config.dim**0.5, items)
        return states

    def _queries_and_keys(self, states: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each code queries ``(b, dim)`` from states ``(b, dim)`` and keys ``(size, dim)``: its logits are their products."""
        heads = F.silu(self.heads(states)).view(len(states), len(self.sizes), -1)
        queries = F.normalize(states[:, None] + self.out(heads), dim=2) / self.config.temperature
        keys = torch.split(F.normalize(self.embedding, dim=1), list(self.sizes))
        return list(zip(queries.unbind(1), keys, strict=True))

    def _log_probabilities(self, states: Tensor) -> Tensor:
        """``(b, sum of sizes)`` from states ``(b, dim)``."""
        logits = ((queries @ keys.T).float() for queries, keys in self._queries_and_keys(states))
        return torch.cat([own.log_softmax(1) for own in logits], 1)

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """Mean cross-entropy over codes and next items."""
        inside = batch.targets >= 0
        codes = (self.places[batch.targets[inside]] - self.offsets).unbind(1)
        parts = self._queries_and_keys(self._encode(batch.items)[inside])
        losses = [
            softmax_cross_entropy(queries, keys, own)
            for (queries, keys), own in zip(parts, codes, strict=True)
        ]
        return {"ce": torch.stack(losses).mean()}

    def scores(self, users: Users) -> Tensor:
        """``(b, n_items)``; -inf where the search through the graph did not come."""
        items = trim_padding(last_items(users.histories, self.max_length)[0]).to(self.places.device)
        found = self._log_probabilities(last_states(self._encode(items), items))
        if self.config.search == "graph":
            return self._walk(found)
        scores = found.new_zeros(len(found), len(self.places))
        for code in range(len(self.sizes)):  # one code at a time: no more memory than the result twice
            scores += found[:, self.places[:, code]]
        return scores / len(self.sizes)

    def _score(self, found: Tensor, items: Tensor) -> Tensor:
        """``(b, n)`` for items ``(b, n)``."""
        places = self.places[items].flatten(1)
        return found.gather(1, places).view(*items.shape, -1).mean(2)

    def _walk(self, found: Tensor) -> Tensor:
        n_items = len(self.places)
        neighbours = self._neighbours()
        draw = torch.rand(len(found), n_items, generator=torch.Generator().manual_seed(0))
        beams = draw.topk(min(self.config.beams, n_items)).indices.to(found.device)
        scores = torch.full((len(found), n_items), -torch.inf, device=found.device)
        for _ in range(self.config.steps):
            reached = torch.cat([beams, neighbours[beams].flatten(1)], 1)
            scores.scatter_(1, reached, self._score(found, reached))
            beams = scores.topk(beams.shape[1]).indices
        return scores

    def train(self, mode: bool = True) -> Self:
        """Change mode; the graph of items belongs to the codes' embeddings as they are now, and is made anew."""
        self._graph = None
        return super().train(mode)

    def _neighbours(self) -> Tensor:
        """``(n_items, edges)`` items by the mean cosine of their codes, code by code; made once for an evaluation."""
        if self._graph is None:
            self._graph = self._find_neighbours()
        return self._graph

    def _find_neighbours(self) -> Tensor:
        unit = F.normalize(gather(F.normalize(self.embedding, dim=1), self.places).flatten(1), dim=1)
        k = min(self.config.edges, len(unit))
        blocks = [(block @ unit.T).topk(k).indices for block in torch.split(unit, 1024)]
        return torch.cat(blocks)
