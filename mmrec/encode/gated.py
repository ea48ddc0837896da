"""Gated fusion, trained with the model that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn


class GatedFusion(nn.Module):
    """``Σ_m g_m h_m`` with ``h_m = W_m x_m + b_m`` and ``g = softmax_m(v_m · tanh(h_m))``.

    Args:
        dims: Width of each modality's features.
        dim: Width of the result.
        absent: ``skip`` leaves an absent modality out of the softmax; ``learned`` puts a trained vector in the place
            of ``h_m``.

    Source: Arevalo et al., "Gated Multimodal Units for Information Fusion", ICLR workshop 2017, with a softmax over
    any number of modalities.
    """

    def __init__(
        self, dims: Mapping[str, int], dim: int, absent: Literal["skip", "learned"] = "skip"
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({m: nn.Linear(width, dim) for m, width in sorted(dims.items())})
        self.gates = nn.ModuleDict({m: nn.Linear(dim, 1, bias=False) for m in sorted(dims)})
        self.missing = nn.ParameterDict()
        if absent == "learned":
            self.missing = nn.ParameterDict({m: nn.Parameter(0.1 * torch.randn(dim)) for m in sorted(dims)})

    def forward(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Fuse ``(b, d_m)`` features with masks ``(b,)`` to ``(b, dim)``; skipping, a row without any is zero."""
        hidden, logits = [], []
        for modality, linear in self.maps.items():
            own, has = linear(features[modality]), present[modality][:, None]
            if self.missing:
                own, has = torch.where(has, own, self.missing[modality]), torch.ones_like(has)
            gate: Tensor = self.gates[modality](torch.tanh(own))
            hidden.append(own * has)
            logits.append(gate.masked_fill(~has, torch.finfo(gate.dtype).min))
        weights = torch.softmax(torch.cat(logits, 1), 1)
        return (torch.stack(hidden, 1) * weights[:, :, None]).sum(1)
