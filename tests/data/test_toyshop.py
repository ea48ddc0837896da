from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.show import describe, gini
from mmrec.data.split import split, split_random
from mmrec.data.toyshop import (
    YEAR,
    YEAR_START,
    Goods,
    make_toyshop,
    plan_goods,
    simulate_purchases,
    write_items,
)
from mmrec.data.toyshop_goods import CATEGORIES, STYLES, draw_picture, write_texts
from mmrec.errors import ConfigError, DataError


def neighbours(vectors: np.ndarray, k: int = 10) -> np.ndarray:
    """The k nearest rows ``(n, k)`` by cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    return np.argsort(-likeness, axis=1, kind="stable")[:, :k]


def words(texts: list[str]) -> np.ndarray:
    """Term frequencies weighted by inverse document frequency ``(n, n_words)``."""
    bags = [set(text.lower().replace(".", "").replace(",", "").split()) for text in texts]
    places = {word: place for place, word in enumerate(sorted(set().union(*bags)))}
    table = np.zeros((len(texts), len(places)))
    for row, bag in enumerate(bags):
        table[row, [places[word] for word in bag]] = 1
    return table * np.log(len(texts) / table.sum(axis=0))


def colours(picture: np.ndarray) -> np.ndarray:
    """Histogram of the colours in 64 bins."""
    bins = (picture.reshape(-1, 3) // 64).astype(np.int64) @ np.array([16, 4, 1])
    return np.sqrt(np.bincount(bins, minlength=64))


@pytest.fixture(scope="module")
def goods() -> Goods:
    return plan_goods(600, np.random.default_rng([0, 0]))


@pytest.fixture(scope="module")
def purchases(goods: Goods) -> pd.DataFrame:
    table = simulate_purchases(goods, 2000, np.random.default_rng([0, 1]))
    return table.assign(user=table["user_id"].str[5:].astype(int), item=table["item_id"].str[5:].astype(int))


class TestPurchases:
    def test_sizes(self, purchases: pd.DataFrame) -> None:
        per_user = np.bincount(purchases["user"])
        assert len(per_user) == 2000
        assert per_user.min() == 5
        assert per_user.max() == 25
        assert 9 <= per_user.mean() <= 12
        assert np.bincount(purchases["item"], minlength=600).min() > 0
        assert not purchases.duplicated(["user", "item"]).any()

    def test_times_lie_in_the_year_and_after_the_launch(self, goods: Goods, purchases: pd.DataFrame) -> None:
        times = purchases["timestamp"].to_numpy()
        assert (np.diff(times) >= 0).all()
        assert times.min() >= YEAR_START
        assert times.max() < YEAR_START + YEAR
        launched = YEAR_START + (goods.launch[purchases["item"]] * YEAR).astype(np.int64)
        assert (times >= launched).all()
        assert (goods.launch > 0).sum() == 30

    def test_popularity_is_skewed_but_does_not_dominate(self, purchases: pd.DataFrame) -> None:
        counts = np.sort(np.bincount(purchases["item"]))
        assert 0.25 < gini(counts) < 0.5
        assert 0.2 < counts[-60:].sum() / counts.sum() < 0.4
        assert counts[-1] < 0.2 * 2000

    def test_items_that_look_alike_are_bought_together(self, goods: Goods, purchases: pd.DataFrame) -> None:
        bought = np.zeros((2000, 600))
        bought[purchases["user"], purchases["item"]] = 1
        together = bought.T @ bought
        looks = np.hstack(
            [np.eye(5)[goods.style], 0.7 * np.eye(6)[goods.category], 0.5 * goods.tone[:, None]]
        )
        alike = neighbours(looks)
        by_popularity = np.argsort(bought.sum(axis=0), kind="stable")
        place = np.argsort(by_popularity)
        rng = np.random.default_rng(0)
        rows = np.arange(600)[:, None]
        chance = []
        for _ in range(5):  # each neighbour is swapped for an item that sells about as well
            other = by_popularity[np.clip(place[alike] + rng.integers(-15, 16, alike.shape), 0, 599)]
            chance.append(together[rows, other][other != rows].mean())
        assert together[rows, alike].mean() > 2 * np.mean(chance)

    def test_taste_beats_popularity_and_content_finds_cold_items(
        self, goods: Goods, purchases: pd.DataFrame
    ) -> None:
        users, items = purchases["user"].to_numpy(), purchases["item"].to_numpy()
        labels = split_random(users, np.random.default_rng(0))
        cold = np.arange(600) % 20 == 7
        train, test = np.zeros((2, 2000, 600))
        train[users[labels == 0], items[labels == 0]] = 1
        test[users[labels == 2], items[labels == 2]] = 1
        train[:, cold] = 0
        popularity = train.sum(axis=0)
        together = (train.T @ train) / np.sqrt(np.outer(popularity + 1, popularity + 1))
        np.fill_diagonal(together, 0)
        looks = np.hstack(
            [np.eye(5)[goods.style], 0.7 * np.eye(6)[goods.category], 0.5 * goods.tone[:, None]]
        )
        looks /= np.linalg.norm(looks, axis=1, keepdims=True)

        def recall(scores: np.ndarray, held: np.ndarray) -> float:
            top = np.argsort(-np.where(train > 0, -np.inf, scores), axis=1, kind="stable")[:, :20]
            some = held.sum(axis=1) > 0
            return float(
                (np.take_along_axis(held, top, axis=1).sum(axis=1) / held.sum(axis=1).clip(1))[some].mean()
            )

        by_popularity = recall(np.tile(popularity, (2000, 1)), test)
        assert recall(train @ together, test) > 1.4 * by_popularity
        assert recall(train @ together, test * cold) < 0.01
        assert recall(train @ np.exp(3 * looks @ looks.T), test * cold) > 0.2


class TestContent:
    def test_some_items_lack_text_picture_or_both(self, goods: Goods) -> None:
        items = write_items(goods, np.random.default_rng([0, 2]))
        no_text, no_picture = items["title"].isna(), items["image"].isna()
        assert (no_text.sum(), no_picture.sum()) == (48, 48)
        assert 0 < (no_text & no_picture).sum() < 12
        assert (no_text == items["description"].isna()).all()

    def test_texts_show_style_and_category(self, goods: Goods) -> None:
        texts = write_items(goods, np.random.default_rng([0, 2]), without_text=0.0)
        near = neighbours(words((texts["title"] + " " + texts["description"]).tolist()))
        assert (goods.style[near] == goods.style[:, None]).mean() > 0.5  # chance 0.2
        assert (goods.category[near] == goods.category[:, None]).mean() > 0.35  # chance 0.17

    def test_texts_show_the_tone(self) -> None:
        def first_words(tone: float) -> set[str]:
            return {write_texts(0, 0, tone, np.random.default_rng(seed))[0].split()[0] for seed in range(40)}

        assert first_words(-0.9) == {"Pale", "Light", "Soft", "Airy", "Whitewashed"}
        assert first_words(0.0).isdisjoint(first_words(-0.9) | first_words(0.9))
        assert first_words(0.9) == {"Dark", "Deep", "Rich", "Midnight", "Smoky"}

    def test_pictures_show_style_and_tone(self) -> None:
        styles, tones = np.arange(60) % 5, np.linspace(-1, 1, 60)
        pictures = [
            np.asarray(draw_picture(i % 6, int(styles[i]), float(tones[i]), 32, np.random.default_rng(i)))
            for i in range(60)
        ]
        near = neighbours(np.array([colours(picture) for picture in pictures]), k=4)
        assert (styles[near] == styles[:, None]).mean() > 0.6  # chance 0.2
        brightness = np.array([picture.mean() for picture in pictures])
        assert np.corrcoef(brightness, tones)[0, 1] < -0.5

    def test_pictures_show_the_category(self) -> None:
        # the outline of the same goods in other colours: distance from the background
        def outline(category: int, style: int) -> np.ndarray:
            picture = np.asarray(
                draw_picture(category, style, 0.8, 48, np.random.default_rng(style)), dtype=float
            )
            return (np.abs(picture - picture[:3].mean(axis=(0, 1))).sum(axis=2) > 90).ravel().astype(float)

        shapes = np.array([outline(category, style) for category in range(6) for style in range(5)])
        near = neighbours(shapes, k=1)[:, 0]
        assert (near // 5 == np.arange(30) // 5).mean() > 0.8  # chance 0.14

    def test_every_style_and_category_can_be_drawn_in_any_size(self) -> None:
        for index in range(30):
            rng = np.random.default_rng(index)
            picture = draw_picture(index % len(CATEGORIES), index % len(STYLES), 0.0, 16 + index, rng)
            assert (picture.mode, picture.size) == ("RGB", (16 + index, 16 + index))


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("shops") / "small"
    return make_toyshop(folder, n_items=80, n_users=150, picture_size=24)


class TestShop:
    def test_is_a_dataset_with_pictures_texts_and_a_split(self, shop: Dataset) -> None:
        from PIL import Image

        document = describe(shop)
        assert (document["users"], document["items"]) == (150, 80)
        assert document["modalities"]["image"]["items"] == 74
        assert document["modalities"]["text"]["items"] == 74
        assert document["columns"]["items"]["title"]["kind"] == "text"
        assert document["columns"]["items"]["description"]["kind"] == "text"
        assert document["columns"]["items"]["price"]["kind"] == "number"
        names = shop.items["image"].dropna().tolist()
        assert len(list(shop.images.iterdir())) == len(names)
        with Image.open(shop.images / names[0]) as picture:
            assert (picture.format, picture.size) == ("PNG", (24, 24))

    def test_the_split_withholds_items(self, shop: Dataset) -> None:
        made = shop.split()
        trained = set(made.train.items.tolist())
        cold_valid, cold_test = (set(part.items.tolist()) - trained for part in (made.valid, made.test))
        assert len(cold_valid) >= 2
        assert len(cold_test) >= 2
        assert made.manifest["options"] == {"cold_items": 0.05}

    def test_new_items_are_cold_in_a_temporal_split(self, tmp_path: Path) -> None:
        shop = make_toyshop(tmp_path / "shop", n_items=60, n_users=100, picture_size=16, new_items=0.1)
        split(shop, "temporal", name="temporal", valid=0.1, test=0.15)
        leakage = describe(shop)["splits"]["temporal"]["leakage"]
        assert leakage["test_older_than_newest_train"] == 0
        assert leakage["items_first_seen_in_test"] >= 3

    def test_same_seed_same_bytes(self, shop: Dataset, tmp_path: Path) -> None:
        again = make_toyshop(tmp_path / "small", n_items=80, n_users=150, picture_size=24)
        other = make_toyshop(tmp_path / "other", n_items=80, n_users=150, picture_size=24, seed=1)
        assert hashes(again.path) == hashes(shop.path)
        assert again.hash == shop.hash != other.hash
        picture = "images/item-0007.png"
        assert hashes(again.path)[picture] != hashes(other.path)[picture]

    def test_refuses_a_folder_in_use(self, shop: Dataset) -> None:
        with pytest.raises(DataError, match="new or empty folder"):
            make_toyshop(shop.path, n_items=30, n_users=10, picture_size=16)

    @pytest.mark.parametrize(
        "sizes", [{"n_items": 29}, {"n_users": 5}, {"picture_size": 8}, {"new_items": 1.0}]
    )
    def test_refuses_what_makes_no_shop(self, tmp_path: Path, sizes: dict[str, int]) -> None:
        with pytest.raises(ConfigError):
            make_toyshop(tmp_path / "shop", **sizes)

    @pytest.mark.slow
    def test_full_size_takes_seconds(self, tmp_path: Path) -> None:
        start = time.process_time()
        make_toyshop(tmp_path / "shop")
        assert time.process_time() - start < 8
