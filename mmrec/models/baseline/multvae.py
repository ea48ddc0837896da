"""MultVAE: a variational autoencoder of whole histories with a multinomial likelihood."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.batches import UserBatch
from mmrec.data.dataset import TrainingData
from mmrec.graph import SparseMatrix, propagate
from mmrec.models.contracts import ModelConfig, Users, Vectors


class Config(ModelConfig):
    """Hyper-parameters of MultVAE."""

    dim: int = Field(64, ge=1, description="width of the latent vector")
    hidden: int = Field(200, ge=1, description="width of the hidden layers of encoder and decoder")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of a history left out of the encoder's input")
    kl_weight: float = Field(0.2, ge=0, description="largest weight of the KL term")
    anneal_steps: int = Field(
        200_000, ge=1, description="batches over which that weight grows from 0, linearly"
    )


class MultVAE(nn.Module):
    """``z ~ N(μ(x), σ(x)²)``, ``π(z) = softmax(f(z))``, loss ``-Σ_i x_ui log π_i + β KL(N(μ, σ²) | N(0, I))``.

    The encoder sees ``dropout(x / |x|)`` and gives ``[μ, log σ²] = W_2 tanh(W_1 x + b_1) + b_2``; the decoder is
    ``f(z) = W_4 tanh(W_3 z + b_3) + b_4``. β grows with the number of batches seen, up to ``kl_weight``. At evaluation
    z is μ and the score f(z), so the last layer makes it an inner product with one vector per item.

    The reported reconstruction term is ``n_u KL(x_u / n_u | π)``: less by the constant ``n_u log n_u`` than the formula
    above, with the same gradient, and 0 when nothing is left to learn. The first layer is a product with the sparse
    histories, no ``(b, n_items)`` input is made.

    Source: Liang, Krishnan, Hoffman, Jebara, "Variational Autoencoders for Collaborative Filtering", WWW 2018. It
    has 600 hidden and 200 latent units, for larger data than the defaults here. Its 200,000 annealing steps are for
    MovieLens-20M with 500 users in a batch; on small data β stays near 0 unless they are fewer.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "users"
    modalities: ClassVar = "none"
    cold_items: ClassVar = False
    steps: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_items = data.n_items
        self.items_in = nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_items, config.hidden)))
        self.bias_in = nn.Parameter(torch.zeros(config.hidden))
        self.to_latent = _linear(config.hidden, 2 * config.dim)
        self.from_latent = _linear(config.dim, config.hidden)
        self.items_out = _linear(config.hidden, data.n_items)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def _encode(self, rows: Tensor, items: Tensor, n_users: int) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(b, dim)`` of histories given as entries ``(n,)``."""
        counts = torch.bincount(rows, minlength=n_users).float()
        values = F.dropout(counts[rows].rsqrt(), self.config.dropout, self.training)
        histories = SparseMatrix.from_entries(rows, items, values, (n_users, self.n_items))
        hidden = torch.tanh(propagate(histories, self.items_in) + self.bias_in)
        mean, log_variance = self.to_latent(hidden).chunk(2, dim=1)
        return mean, log_variance

    def loss(self, batch: UserBatch) -> dict[str, Tensor]:
        """Loss terms of a batch, means over its users."""
        mean, log_variance = self._encode(batch.rows, batch.items, len(batch.users))
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        logits = self.items_out(torch.tanh(self.from_latent(latent)))
        divergence = (mean.pow(2) + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
        return {
            "reconstruction": reconstruction(logits, batch.rows, batch.items),
            "kl": self._next_kl_weight() * divergence,
        }

    def _next_kl_weight(self) -> Tensor:
        """β of this batch; counts it, so that a resumed run goes on where it stood."""
        weight = self.config.kl_weight * (self.steps / self.config.anneal_steps).clamp(max=1)
        if self.training:
            self.steps += 1
        return weight

    def vectors(self) -> Vectors:
        """Rows of the last layer with their biases, and the hidden layers before it, ``(n, hidden + 1)``."""

        def encode(users: Users) -> Tensor:
            device = self.items_in.device
            rows, items = (
                torch.from_numpy(part).to(device) for part in (users.histories.users, users.histories.items)
            )
            mean, _ = self._encode(rows, items, len(users.ids))
            return F.pad(torch.tanh(self.from_latent(mean)), (0, 1), value=1.0)

        return Vectors(torch.cat([self.items_out.weight, self.items_out.bias[:, None]], dim=1), encode)


def reconstruction(logits: Tensor, rows: Tensor, items: Tensor) -> Tensor:
    """``mean_u n_u KL(x_u / n_u | softmax(logits_u))`` for histories given as entries ``(n,)`` of ``(b, n_items)``."""
    counts = torch.bincount(rows, minlength=len(logits)).to(logits.dtype)
    floor = counts * counts.clamp(min=1).log()
    return (counts * logits.logsumexp(1) - floor).mean() - logits[rows, items].sum() / len(logits)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
