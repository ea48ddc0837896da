"""Small tables of rows and items, with what should be known about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

N = 300
SCHEMA: dict[str, Any] = {
    "label": "clicked",
    "group": "user",
    "item": "item",
    "fields": {
        "user": {"kind": "category", "min_count": 2},
        "item": "category",
        "price": {"kind": "number"},
        "views": {"kind": "number", "treatment": "log"},
        "age": {"kind": "number", "treatment": "quantile", "buckets": 4},
        "words": {"kind": "tags", "separator": "|", "max_length": 2},
        "seen": {"kind": "history", "separator": " ", "max_length": 3},
    },
    "items": {"fields": {"genre": "category", "size": {"kind": "number"}}},
}


def make_rows(seed: int = 0, n: int = N) -> pd.DataFrame:
    """Rows with missing values everywhere, and items 8 and 9 only after row 200."""
    rng = np.random.default_rng(seed)
    late = np.arange(n) >= 200
    frame = pd.DataFrame(
        {
            "user": rng.integers(0, 40, n).astype(str),
            "item": [f"i{item}" for item in np.where(late, rng.integers(0, 10, n), rng.integers(0, 8, n))],
            "price": rng.normal(50, 9, n).round(2),
            "views": rng.integers(0, 5000, n),
            "age": rng.integers(18, 60, n).astype(float),
            "words": ["|".join(rng.choice(list("abcde"), rng.integers(0, 4))) for _ in range(n)],
            "seen": [
                " ".join(f"i{item}" for item in rng.integers(0, 12, rng.integers(0, 6))) for _ in range(n)
            ],
            "clicked": rng.integers(0, 2, n),
        }
    )
    frame.loc[rng.random(n) < 0.1, "price"] = np.nan
    frame.loc[rng.random(n) < 0.1, "age"] = np.nan
    return frame


def make_items() -> pd.DataFrame:
    """Items i0 to i9; i9 alone is of its genre."""
    return pd.DataFrame(
        {
            "item": [f"i{item}" for item in range(10)],
            "genre": [*("xyz"[item % 3] for item in range(9)), "w"],
            "size": np.arange(10) * 2.0,
            "vector": [np.arange(3, dtype=np.float32) + item for item in range(10)],
        }
    )
