"""MSCGRec: reads a history in the codes of several sources, spells the next item in those of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec.attention import trim_padding
from mmrec.codes.table import CodeTable
from mmrec.codes.trie import Trie
from mmrec.data.batches import SequenceBatch, last_items
from mmrec.data.dataset import TrainingData
from mmrec.errors import ConfigError, did_you_mean
from mmrec.models.contracts import Users
from mmrec.models.generative.spelling import SemanticIDs, Speller, SpellingConfig, shape_of
from mmrec.nn import ScaledEmbedding, gather
from mmrec.transformer import Encoder, RelativeBias, hide_padding


class Config(SpellingConfig):
    """Hyper-parameters of MSCGRec."""

    max_length: int = Field(20, ge=1, description="how many of a user's last items are read")
    target: str | None = Field(
        None, description="source whose codes are spelt; left out: collaborative, or the only one there is"
    )
    p_mask: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="share of the sources that a history lacks in training; one always stays",
    )
    pool: Literal["token", "item"] = Field(
        "token",
        description="the encoder reads every code, or the codes of an item joined and mapped to one row",
    )
    softmax: Literal["level", "permitted"] = Field(
        "permitted",
        description="in training a code competes with its level, or with those that can follow in the trie",
    )
    normalize: Literal["level", "permitted"] = Field(
        "permitted",
        description="in generation a code's probability is among its level, or among those that can follow",
    )


class MSCGRec(nn.Module):
    """``p(i | history) = Π_l p(c_l | c_<l, history)`` with c the target source's codes, the history in those of all.

    An item of the history is the row of its codes of all sources (``codes: {collaborative: …, text: …, image: …}``), the
    target's first, so that no source loses what a common code has no room for. The encoder's attention adds two
    biases for each head: ``b(a, b) = b_item[bucket(item(b) - item(a))] + b_slot[slot(a), slot(b)]``, of how many items lie
    between two codes and of their places in the rows. With ``pool: item`` the embeddings of a row are joined and mapped
    to one vector, and only ``b_item`` is left: sequences are as many times shorter as an item has codes.

    In training each source is missing from a whole history with probability ``p_mask``; a learned row stands for
    codes that are missing, then and where the tokeniser saw no content of an item. Codes compete with those that can
    follow in the trie: ``L = -log softmax_{c' ∈ children(c_<l)}(z_l)[c_l]``, in training as in generation. Where only one
    code can follow the term is exactly 0; the loss is the mean over the others, lest such levels make it look small.

    Source: Vandenhirtz et al., "Multimodal Generative Recommendation for Fusing Semantic and Collaborative Signals",
    2026. From the paper are several codes for the history and one for the target, two relative positions, masking and
    the softmax among permitted codes. There is no public code: the form of the biases, ``p_mask``, the learned row,
    ``pool: item`` and the sizes are ours.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "sequences"
    modalities: ClassVar = "none"
    codes: ClassVar = "several"
    cold_items: ClassVar = True
    tokens: Tensor
    source: Tensor
    there: Tensor
    choices: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config, self.max_length = config, config.max_length
        target = target_source(data.codes, config.target)
        self.sources = [target, *(name for name in sorted(data.codes) if name != target)]
        tables = [data.codes[name] for name in self.sources]
        self.ids = SemanticIDs(tables[0], config)
        sizes = [size for table in tables for size in table.sizes]
        offsets = torch.tensor([0, *sizes]).cumsum(0)[:-1]
        codes = torch.from_numpy(np.concatenate([table.codes for table in tables], 1)).long()
        self.register_buffer("tokens", codes + offsets)  # saved: weights are of these codes
        levels = torch.tensor([table.levels for table in tables])
        self.register_buffer(
            "source", torch.repeat_interleave(torch.arange(len(tables)), levels), persistent=False
        )
        there = [table.array("present") for table in tables]
        self.register_buffer(
            "there",
            torch.from_numpy(
                np.stack([np.ones(data.n_items, bool) if one is None else one for one in there], 1)
            ),
        )
        self.register_buffer("choices", self._count_choices(), persistent=False)
        if len(tables) > 1:
            self.others = ScaledEmbedding(sum(sizes) - sum(tables[0].sizes), config.dim)
        if (config.p_mask > 0 and len(tables) > 1) or not bool(self.there.all()):
            self.absent = nn.Parameter(torch.randn(len(sizes), config.dim))
        self.item_bias = RelativeBias(config.heads, both_ways=True)
        if config.pool == "token":
            self.slot_bias = nn.Parameter(
                torch.randn(len(sizes), len(sizes), config.heads) * config.heads**-0.5
            )
        else:
            self.pool = nn.Linear(len(sizes) * config.dim, config.dim, bias=False)
        self.encoder = Encoder(shape_of(config))

    @property
    def trie(self) -> Trie:
        """The target source's IDs."""
        return self.ids.trie

    def _count_choices(self) -> Tensor:
        """``(n_items,)`` levels of an item's ID that the loss is about."""
        trie = self.ids.trie
        if self.config.softmax == "level":
            return torch.full((len(trie.items),), trie.levels)
        several = [
            trie.following(level, trie.paths[:, level]).exist.sum(1) > 1 for level in range(trie.levels)
        ]
        return torch.stack(several).sum(0)

    def _masked(self, n: int) -> Tensor:
        """``(n, sources)`` which are missing from each of n histories in training."""
        draw = torch.rand(n, len(self.sources), device=self.tokens.device)
        # whichever has the largest draw stays: one always does, and all are alike
        return (draw < self.config.p_mask) & (draw < draw.amax(1, keepdim=True))

    def _rows(self, items: Tensor) -> Tensor:
        """Embeddings ``(b, t, slots, dim)`` of the codes of items ``(b, t)``."""
        known = items.clamp(min=0)
        table = self.ids.embedding()
        if len(self.sources) > 1:
            table = torch.cat([table, self.others()])
        rows = gather(table, self.tokens[known])
        if not hasattr(self, "absent"):
            return rows
        there = self.there[known]
        if self.training:
            there = there & ~self._masked(len(items))[:, None]
        return torch.where(there[..., self.source, None], rows, self.absent)

    def bias(self, n: int) -> Tensor:
        """Biases ``(heads, n * slots, n * slots)`` between the codes of n items in a row, ``pool: item`` (heads, n, n)."""
        places = torch.arange(n, device=self.tokens.device)
        items: Tensor = self.item_bias(places, places)
        if self.config.pool == "item":
            return items
        slots = self.slot_bias.permute(2, 0, 1)
        size = n * slots.shape[1]
        return (items[:, :, None, :, None] + slots[:, None, :, None, :]).reshape(-1, size, size)

    def encode(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """States ``(b, t * slots, dim)`` of histories ``(b, t)``, oldest first, then -1; and which are there.

        ``pool: item`` gives ``(b, t, dim)``.
        """
        items = trim_padding(items)
        present = items >= 0
        rows = self._rows(items) * present[..., None, None]
        present = torch.cat(
            [torch.ones_like(present[:, :1]), present[:, 1:]], 1
        )  # no history: a row of zeros
        if self.config.pool == "item":
            rows = self.pool(rows.flatten(2))
        else:
            present = present.repeat_interleave(rows.shape[2], 1)
            rows = rows.flatten(1, 2)
        states: Tensor = self.encoder(rows, hide_padding(self.bias(items.shape[1]), present))
        return states, present

    def loss(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """Cross-entropy of the codes of each level; their sum is the mean of a code that has alternatives."""
        terms = self.ids.loss(*self.encode(batch.items), batch.targets)
        scale = 1 / self.choices[batch.targets].float().mean().clamp(min=1 / len(batch.targets))
        return {name: term * scale for name, term in terms.items()}

    def speller(self, users: Users) -> Speller:
        """What spells the next items of a block of users."""
        items, _ = last_items(users.histories, self.max_length)
        return self.ids.speller(*self.encode(items.to(self.tokens.device)))


def target_source(tables: Mapping[str, CodeTable], wanted: str | None) -> str:
    """The source whose codes are spelt.

    Raises:
        ConfigError: No such source, or it is not said which of several.
    """
    names = sorted(tables)
    if wanted is not None and wanted not in names:
        raise ConfigError(
            f"target: one of the sources of codes ({', '.join(names)})", wanted, did_you_mean(wanted, names)
        )
    if wanted is not None:
        return wanted
    if "collaborative" in names:
        return "collaborative"
    if len(names) != 1:
        raise ConfigError(
            "a source of codes called collaborative, or target: the one to spell",
            f"codes of {', '.join(names) or 'nothing'}",
            "add target: NAME to params",
        )
    return names[0]
