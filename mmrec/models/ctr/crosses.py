"""Cross layers: products of the input with linear maps of what came before, and networks made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec.models.ctr.inputs import RankerConfig
from mmrec.nn import MLP

Kind = Literal["full", "low-rank", "mixture"]


class CrossConfig(RankerConfig):
    """Hyper-parameters of a deep and cross network."""

    cross: Kind = Field(
        "full", description="matrix of a cross layer: full, of low rank, or a mixture of such"
    )
    layers: int = Field(3, ge=1, description="cross layers; L of them make crosses up to degree L + 1")
    rank: int = Field(32, ge=1, description="rank of the matrices of cross: low-rank and mixture")
    experts: int = Field(4, ge=1, description="matrices of cross: mixture")
    structure: Literal["parallel", "stacked", "cross", "stacked-parallel"] = Field(
        "parallel", description="where the network stands: beside the crosses, behind them, nowhere, both"
    )
    hidden: tuple[int, ...] = Field((128, 64), description="widths of the network's layers")
    batch_norm: bool = Field(False, description="normalise the network's layers over the batch")


class LowRank(nn.Module):
    """``U Vᵀ x + b`` with matrices ``(width, rank)``."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, rank, bias=False), nn.Linear(rank, width)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        result: Tensor = self.up(self.down(states))
        return result


class Mixture(nn.Module):
    """``Σ_i g_i(x) U_i tanh(C_i tanh(V_iᵀ x)) + b``, g the softmax of linear scores.

    The gates sum to 1, so the constant b stands outside; and gated before U, all experts are one product.
    """

    def __init__(self, width: int, rank: int, experts: int) -> None:
        super().__init__()
        self.experts = experts
        self.down, self.gates = nn.Linear(width, experts * rank, bias=False), nn.Linear(width, experts)
        self.core = nn.Parameter(torch.randn(experts, rank, rank) * rank**-0.5)
        self.up = nn.Linear(experts * rank, width)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        inner = self.down(states).tanh().unflatten(1, (self.experts, -1))
        inner = torch.einsum("ber,ers->bes", inner, self.core).tanh()
        gated = inner * self.gates(states).softmax(1)[:, :, None]
        result: Tensor = self.up(gated.flatten(1))
        return result


class CrossNetwork(nn.Module):
    """``x_{l+1} = x_0 ⊙ f_l(x_l) + x_l`` with affine f_l, full or of low rank, or a mixture of experts.

    Source: Wang et al., "DCN V2: Improved Deep & Cross Network", WWW 2021.

    Args:
        width: Width of x.
        config: Kind and number of layers.
    """

    def __init__(self, width: int, config: CrossConfig) -> None:
        super().__init__()
        makers: dict[Kind, Callable[[], nn.Module]] = {
            "full": lambda: nn.Linear(width, width),
            "low-rank": lambda: LowRank(width, config.rank),
            "mixture": lambda: Mixture(width, config.rank, config.experts),
        }
        self.layers = nn.ModuleList(makers[config.cross]() for _ in range(config.layers))

    def forward(self, first: Tensor) -> Tensor:
        """``(b, width)`` to the same."""
        states = first
        for layer in self.layers:
            states = states + first * layer(states)  # addcmul saves one pass and costs two backward
        return states


class DeepCross(nn.Module):
    """Crosses and a network, side by side or one behind the other.

    - parallel: ``[cross(x); MLP(x)]``
    - stacked: ``MLP(cross(x))``
    - cross: ``cross(x)``
    - stacked-parallel: ``[MLP'(cross(x)); MLP(x)]``

    Args:
        width: Width of x.
        config: Hyper-parameters.

    Attributes:
        width: Width of the result.
    """

    def __init__(self, width: int, config: CrossConfig) -> None:
        super().__init__()
        structure = config.structure
        self.cross = CrossNetwork(width, config)
        self.behind = self._network(width, config) if structure.startswith("stacked") else None
        self.beside = self._network(width, config) if structure.endswith("parallel") else None
        self.width = (width if self.behind is None else self.behind.width) + (
            0 if self.beside is None else self.beside.width
        )

    @staticmethod
    def _network(width: int, config: CrossConfig) -> MLP:
        return MLP(width, config.hidden, config.dropout, batch_norm=config.batch_norm)

    def forward(self, flat: Tensor) -> Tensor:
        """``(b, width)`` to ``(b, self.width)``."""
        crossed = self.cross(flat)
        if self.behind is not None:
            crossed = self.behind(crossed)
        return crossed if self.beside is None else torch.cat([crossed, self.beside(flat)], 1)
