"""An encoder for kill tests: numpy only, slow on demand, and its vectors betray the batch they were made in."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.encode.encoders import EncoderOptions


class SlowEncoder:
    def __init__(self, options: EncoderOptions) -> None:
        self.modality = options.modality
        self._prompt = options.prompt
        self._pause = float(os.environ.get("MMREC_TEST_PAUSE", "0"))

    def describe(self) -> dict[str, Any]:
        return {"name": "slow", "prompt": self._prompt}

    def encode(self, inputs: list[str]) -> NDArray[np.float32]:
        time.sleep(self._pause)
        longest = max(map(len, inputs))
        rows = [[len(text), ord(text[0]), longest, len(inputs), place] for place, text in enumerate(inputs)]
        return np.sin(np.array(rows, dtype=np.float64)).astype(np.float32)


NAME = "tests.encode.slow_encoder:SlowEncoder"
