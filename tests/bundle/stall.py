"""A market stall of fruit and tools, with texts and pictures that tell them apart, and buyers of one or the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmrec.data.dataset import Dataset
from mmrec.data.split_files import write_split
from mmrec.encode.runner import encode
from tests.worlds import write_dataset

WORDS = ("ripe sweet apple pear plum cherry", "steel hammer saw nail drill wrench")
COLOURS = ((200, 40, 40), (40, 40, 200))
N_USERS, N_ITEMS = 24, 20
COLUMNS = {
    "items": {"item_id": "id", "title": "text", "kind": "tokens", "price": "number", "image": "image"},
    "interactions": {"user": "id", "item": "id", "position": "order"},
}
NEW = pd.DataFrame(
    {"item_id": ["new-fruit", "new-tool"], "title": ["sweet plum and pear", "saw and steel drill"]}
)


def draw(file: Path, block: int, seed: int) -> None:
    """A picture of fruit (red) or of a tool (blue)."""
    from PIL import Image

    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (8, 8, 3))
    Image.fromarray((np.array(COLOURS[block]) + noise).astype(np.uint8)).save(file)


def make_stall(folder: Path) -> Dataset:
    """Even users buy even items, which are fruit; odd ones tools. Features ``text-tfidf`` and ``image-histogram``.

    Everybody has all items of the block but two, one of which is for validation. Item 3 has no picture, item 4 no text.
    """
    rng = np.random.default_rng(0)
    titles: list[Any] = [" ".join(rng.permutation(WORDS[item % 2].split())[:4]) for item in range(N_ITEMS)]
    images: list[Any] = [f"i{item}.png" for item in range(N_ITEMS)]
    for item, name in enumerate(images):
        draw(folder / "images" / name, item % 2, item)
    images[3], titles[4] = None, None
    pairs = [
        (user, item, item == (user + 2) % N_ITEMS)
        for user in range(N_USERS)
        for item in range(user % 2, N_ITEMS, 2)
        if item != user % N_ITEMS
    ]
    users, items, held = map(list, zip(*pairs, strict=True))
    interactions = {"user": users, "item": items, "position": list(range(len(pairs)))}
    attributes = {
        "title": titles,
        "kind": ["fruit", "tool"] * (N_ITEMS // 2),
        "price": list(range(N_ITEMS)),
        "image": images,
    }
    dataset = write_dataset(folder, interactions, attributes, COLUMNS)
    labels = np.array(held, dtype=np.int8)
    write_split(dataset, "default", labels, protocol="given", options={}, seed=None)
    for modality, encoder in (("text", "tfidf"), ("image", "histogram")):
        encode(dataset, modality=modality, encoder=encoder, name=f"{modality}-{encoder}", show_progress=False)
    return dataset
