"""Models that fail or draw at random on purpose, named in configs by import path."""

from __future__ import annotations

import os
import signal
import time
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.baseline.bpr import BPR, Config
from mmrec.models.contracts import Vectors


class LossConfig(Config):
    """When to break."""

    at_step: int = 3
    value: Literal["nan", "inf"] = "nan"


class NaNLoss(BPR):
    """The term ``extra`` is NaN (or what is asked for) from a step on."""

    config_type: ClassVar = LossConfig

    def __init__(self, config: LossConfig, data: TrainingData) -> None:
        super().__init__(config, data)
        self.steps = 0

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        self.steps += 1
        assert isinstance(self.config, LossConfig)
        extra = torch.tensor(float(self.config.value) if self.steps > self.config.at_step else 0.0)
        return super().loss(batch) | {"extra": extra}


class Dropout(BPR):
    """BPR with dropout on the embeddings, drawn from the global generator; the mask differs in every step."""

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        table = F.dropout(self.embeddings, 0.3, training=self.training)
        rows = F.embedding(torch.cat([batch.users, batch.positives + self.n_users]), table)
        users, positives = rows.chunk(2)
        others = F.embedding(batch.negatives + self.n_users, table)
        return {"bpr": F.softplus((users * (others - positives)).sum(1)).mean()}


class Constant(BPR):
    """Never changes: every validation after the first is no better."""

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        return {"nothing": self.embeddings.sum() * 0}

    def vectors(self) -> Vectors:
        return Vectors.from_tables(
            torch.ones(self.n_users, 1), torch.arange(len(self.embeddings) - self.n_users)[:, None].float()
        )


class Undeclared:
    """No model at all."""


class Slow(BPR):
    """Takes its time in every step, where the environment says so."""

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        time.sleep(float(os.environ.get("MMREC_TEST_PAUSE", "0")))
        return super().loss(batch)


class Interrupting(BPR):
    """Presses Ctrl-C in the step that the environment names, once."""

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        left = int(os.environ.get("MMREC_TEST_INTERRUPT", "0"))
        os.environ["MMREC_TEST_INTERRUPT"] = str(left - 1)
        if left == 1:
            signal.raise_signal(signal.SIGINT)
        return super().loss(batch)
