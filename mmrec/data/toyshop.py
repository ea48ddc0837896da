"""A made-up shop of home goods with drawn pictures and written texts, to see everything work in a minute.

Each item has a category, a style and a tone, which its picture and its text show; each user prefers some of them
and buys accordingly, popular items more often. What the pictures and texts show is therefore worth knowing, most
of all for items that few have bought yet.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.dataset import Dataset
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float64]

YEAR_START = 1_704_067_200  # 2024-01-01, seconds
YEAR = 366 * 86_400
_NEW_FROM = 0.95  # new items are first sold in the last twentieth of the year


@dataclass(frozen=True, eq=False)
class Goods:
    """What decides about an item's sales; all but the popularity can be seen.

    Attributes:
        category: ``(n_items,)`` index in :data:`mmrec.data.toyshop_goods.CATEGORIES`.
        style: ``(n_items,)`` index in :data:`mmrec.data.toyshop_goods.STYLES`.
        tone: ``(n_items,)`` pale -1 … deep 1.
        popularity: ``(n_items,)`` Zipf-like weight.
        launch: ``(n_items,)`` first day of sale as a share of the year.
    """

    category: Ids
    style: Ids
    tone: Floats
    popularity: Floats
    launch: Floats


def make_toyshop(
    to: str | Path,
    *,
    n_items: int = 600,
    n_users: int = 2000,
    seed: int = 0,
    picture_size: int = 64,
    without_picture: float = 0.08,
    without_text: float = 0.08,
    new_items: float = 0.05,
    cold_items: float = 0.05,
) -> Dataset:
    """Make the shop as a dataset folder with a split ``default``; the same arguments give the same bytes.

    The split is ``random`` with whole items withheld (see :func:`mmrec.data.split.split`), so that warm and cold
    items can be measured side by side.

    Args:
        to: The new folder.
        n_items: Number of items.
        n_users: Number of users.
        seed: Seed of everything.
        picture_size: Edge of the pictures in pixels.
        without_picture: Share of the items without a picture.
        without_text: Share of the items without title and description.
        new_items: Share of the items that are first sold at the end of the year.
        cold_items: Share of the items that the split withholds from training.

    Raises:
        ConfigError: Sizes or shares that make no shop.
        DataError: The folder is not empty.
    """
    from mmrec.data.importers.frames import from_frames
    from mmrec.data.split import split

    _check(n_items, n_users, picture_size, (without_picture, without_text, new_items, cold_items))
    planning, buying, describing = (np.random.default_rng([seed, stage]) for stage in range(3))
    goods = plan_goods(n_items, planning, new_items=new_items)
    purchases = simulate_purchases(goods, n_users, buying)
    items = write_items(goods, describing, without_picture=without_picture, without_text=without_text)
    with tempfile.TemporaryDirectory(prefix="toyshop-") as folder:
        _draw_pictures(goods, items["image"].tolist(), Path(folder), picture_size, seed)
        dataset = from_frames(purchases, items, images=Path(folder), to=to, name="toyshop")
    split(dataset, "random", seed=seed, cold_items=cold_items)
    return dataset


def plan_goods(n_items: int, rng: np.random.Generator, *, new_items: float = 0.05) -> Goods:
    """Draw the hidden properties of all items.

    Args:
        n_items: Number of items.
        rng: Source of all draws.
        new_items: Share of the items that are first sold at the end of the year.
    """
    from mmrec.data.toyshop_goods import CATEGORIES, STYLES

    launch = np.zeros(n_items)
    new = rng.permutation(n_items)[: round(new_items * n_items)]
    launch[new] = rng.uniform(_NEW_FROM, 0.99, size=len(new))
    return Goods(
        category=rng.permutation(np.arange(n_items) % len(CATEGORIES)),
        style=rng.permutation(np.arange(n_items) % len(STYLES)),
        tone=rng.uniform(-1, 1, size=n_items),
        popularity=np.power(1.0 + rng.permutation(n_items), -0.6),
        launch=launch,
    )


def simulate_purchases(goods: Goods, n_users: int, rng: np.random.Generator) -> pd.DataFrame:
    """Let users buy 5 to 25 items each, none twice: ``user_id``, ``item_id`` and ``timestamp``, oldest first.

    A user draws items without replacement with probability proportional to
    ``popularity · (taste for the style) · (taste for the category)^1.2 · exp(-2.5 (difference in tone)²)``, by the
    Gumbel trick on the logarithms.

    Args:
        goods: The items.
        n_users: Number of users.
        rng: Source of all draws.
    """
    n_items = len(goods.style)
    styles = rng.dirichlet(np.full(int(goods.style.max()) + 1, 0.15), size=n_users)
    categories = rng.dirichlet(np.full(int(goods.category.max()) + 1, 1.0), size=n_users)
    tones = rng.uniform(-1, 1, size=n_users)
    weights = (
        np.log(goods.popularity)
        + np.log(styles + 0.02)[:, goods.style]
        + 1.2 * np.log(categories + 0.02)[:, goods.category]
        - 2.5 * (tones[:, None] - goods.tone) ** 2
        + np.where(goods.launch > 0, np.log(0.4), 0.0)  # sold for a few weeks only
    )
    ranked = np.argsort(-(weights + rng.gumbel(size=weights.shape)), axis=1, kind="stable")
    counts = np.clip(np.rint(rng.lognormal(np.log(9.5), 0.5, size=n_users)), 5, min(25, n_items)).astype(
        np.int64
    )
    users = np.repeat(np.arange(n_users), counts)
    items = ranked[np.arange(n_items) < counts[:, None]]
    first_visit = np.repeat(0.9 * rng.beta(1.0, 2.5, size=n_users), counts)
    earliest = np.maximum(first_visit, goods.launch[items])
    moments = earliest + (1 - earliest) * rng.random(len(items))
    table = pd.DataFrame(
        {
            "user_id": [f"user-{user:04d}" for user in users],
            "item_id": [f"item-{item:04d}" for item in items],
            "timestamp": YEAR_START + (moments * YEAR).astype(np.int64),
        }
    )
    return table.sort_values("timestamp", kind="stable", ignore_index=True)


def write_items(
    goods: Goods, rng: np.random.Generator, *, without_picture: float = 0.08, without_text: float = 0.08
) -> pd.DataFrame:
    """The item table: ``item_id``, ``title``, ``description``, ``category``, ``price``, ``image`` (a file name).

    Args:
        goods: The items.
        rng: Source of all draws.
        without_picture: Share of the items without a picture.
        without_text: Share of the items without title and description.
    """
    from mmrec.data.toyshop_goods import CATEGORIES, write_texts

    n_items = len(goods.style)
    texts: list[tuple[str | None, str | None]] = [
        write_texts(int(category), int(style), float(tone), rng)
        for category, style, tone in zip(goods.category, goods.style, goods.tone, strict=True)
    ]
    for item in _draw_absent(n_items, without_text, rng):
        texts[item] = (None, None)
    images: list[str | None] = [f"item-{item:04d}.png" for item in range(n_items)]
    for item in _draw_absent(n_items, without_picture, rng):
        images[item] = None
    usual = np.array([12.0, 60.0, 25.0, 20.0, 40.0, 120.0])[goods.category]
    return pd.DataFrame(
        {
            "item_id": [f"item-{item:04d}" for item in range(n_items)],
            "title": [title for title, _ in texts],
            "description": [description for _, description in texts],
            "category": [CATEGORIES[category] for category in goods.category],
            "price": np.round(usual * rng.lognormal(0.0, 0.3, size=n_items), 2),
            "image": images,
        }
    )


def _draw_absent(n_items: int, share: float, rng: np.random.Generator) -> Ids:
    return rng.permutation(n_items)[: round(share * n_items)]


def _draw_pictures(goods: Goods, names: Sequence[Any], folder: Path, size: int, seed: int) -> None:
    """Draw the pictures that have a name; each item has its own generator, so that none depends on the others."""
    from mmrec.data.toyshop_goods import draw_picture

    for item, name in enumerate(names):
        if isinstance(name, str):
            rng = np.random.default_rng([seed, 3, item])
            picture = draw_picture(
                int(goods.category[item]), int(goods.style[item]), float(goods.tone[item]), size, rng
            )
            picture.save(folder / name, compress_level=1)


def _check(n_items: int, n_users: int, picture_size: int, shares: Sequence[float]) -> None:
    if n_items < 30 or n_users < 10 or picture_size < 16:
        raise ConfigError(
            "at least 30 items (each category in each style), 10 users and 16 pixels",
            f"{n_items} items, {n_users} users, {picture_size} pixels",
            "make a larger shop",
        )
    if not all(0 <= share < 1 for share in shares):
        raise ConfigError("shares from 0 to below 1", ", ".join(map(str, shares)), "try 0.05")
