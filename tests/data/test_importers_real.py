"""Imports of real files, against the counts that their READMEs give."""

import re
import time
from pathlib import Path

import numpy as np
import pandas as pd

from mmrec.data.dataset import Dataset
from mmrec.data.importers import import_dataset
from tests.shared import shared_data


def untrained_items(dataset: Dataset) -> int:
    """Items with interactions, but none for training."""
    trained = np.unique(dataset.split().train.items)
    return len(np.setdiff1d(np.unique(dataset.interactions["item"]), trained))


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return dataset.n_users, dataset.n_items, dataset.n_interactions


def test_ml100k(tmp_path: Path) -> None:
    source = shared_data("ml100k")
    dataset = import_dataset(source, tmp_path / "d", split_file=source / "split_mmrec.tsv")
    assert sizes(dataset) == (943, 1682, 100_000)
    assert dataset.split().manifest["counts"] == {"train": 75_000, "valid": 12_000, "test": 13_000, "out": 0}
    items = dataset.items
    assert items["image"].notna().sum() == 1620
    assert sum(1 for _ in dataset.images.iterdir()) == 1620
    assert (dataset.images / items["image"][dataset.item("1")]).read_bytes() == (
        source / "images" / "1.jpg"
    ).read_bytes()
    assert [int(items[column].notna().sum()) for column in ("director", "cast", "plot")] == [1484] * 3
    story = items.iloc[dataset.item("1")]
    assert story["movie_title"] == "Toy Story" and story["class"] == "Animation, Children's, Comedy"
    assert story["director"] == "John Lasseter" and story["cast"].startswith("Tom Hanks, Tim Allen, ")
    assert 'named "Woody"' in story["plot"]
    nameless = items.iloc[dataset.item("267")]  # one misspelled word serves as title and year
    assert nameless["movie_title"] == nameless["release_year"] and nameless["class"] == "unknown"
    assert items["movie_title"].duplicated().sum() > 0  # titles are no ids
    assert items["plot"].dropna().str.contains(r"[^\x00-\x7f]").any()
    columns = dataset.manifest["columns"]["items"]
    assert [name for name, kind in columns.items() if kind == "text"] == ["movie_title", "plot"]
    first = dataset.interactions.iloc[0]
    assert (dataset.users["user_id"][first["user"]], items["item_id"][first["item"]]) == ("196", "242")
    assert (first["rating"], first["timestamp"]) == (3, 881250949)
    assert set(dataset.interactions["rating"]) == {1, 2, 3, 4, 5}
    years = pd.to_datetime(dataset.interactions["timestamp"], unit="s").dt.year
    assert set(years) == {1997, 1998}
    assert dataset.interactions.groupby("user").size().min() == 20


def test_ml1m(tmp_path: Path) -> None:
    source = shared_data("ml1m")
    start = time.monotonic()
    dataset = import_dataset(source, tmp_path / "d", link_images=True)
    assert time.monotonic() - start < 30  # a few seconds alone
    assert sizes(dataset) == (6040, 3883, 1_000_209)
    counts = dataset.interactions["rating"].value_counts()
    assert [counts[float(stars)] for stars in range(1, 6)] == [56_174, 107_557, 261_197, 348_971, 226_310]
    rated = np.unique(dataset.interactions["item"])
    assert len(rated) == 3706
    assert (
        dataset.items["image"].notna().sum() == 3872 and dataset.items["image"].notna()[rated].sum() == 3699
    )
    assert "timestamp" not in dataset.interactions.columns
    assert dataset.images == (source / "images").resolve()
    assert (
        dataset.items["title"].str.contains(r"\(\d{4}\)$").all()
        and dataset.items["year"].between(1900, 2000).all()
    )
    assert dataset.items["title"].str.contains("é").any()  # Latin-1 in the source
    assert dataset.items["genres"][0] == "Animation, Children's, Comedy"
    assert dataset.users["zip_code"][3] == "02460"


def test_amazon_sports(tmp_path: Path) -> None:
    dataset = import_dataset(shared_data("amazon-sports"), tmp_path / "d")
    assert sizes(dataset) == (35_598, 18_357, 296_337)
    assert dataset.split().manifest["counts"] == {"train": 218_409, "valid": 37_899, "test": 40_029, "out": 0}
    assert untrained_items(dataset) == 5
    items = dataset.items
    assert items["keywords"].notna().all() and items["attributes"].notna().all()
    assert items["item_id"].is_monotonic_increasing and dataset.item("1881509818") == 0
    assert items["keywords"][0] == "ghost armorers tool 332 punch hunting fishing"
    assert len(set(items["attributes"].str.split(", ").explode())) == 2277
    assert dataset.user("AIXZKN4ACSKI") == 0 and dataset.interactions[["user", "item"]].iloc[1].tolist() == [
        0,
        3369,
    ]


def test_amazon_baby(tmp_path: Path) -> None:
    dataset = import_dataset(shared_data("amazon-baby"), tmp_path / "d")
    assert sizes(dataset) == (19_445, 7_050, 160_792)
    assert dataset.split().manifest["counts"] == {"train": 118_551, "valid": 20_559, "test": 21_682, "out": 0}
    assert untrained_items(dataset) == 3
    assert dataset.items["imUrl"].isna().sum() == 13
    kinds = dataset.manifest["columns"]["items"]
    assert "text" not in kinds.values()  # an address is no text to be encoded


def test_amazon_baby_has_a_five_core_of_itself(tmp_path: Path) -> None:
    dataset = import_dataset(shared_data("amazon-baby"), tmp_path / "d", k_core=5)
    assert sizes(dataset) == (19_445, 7_050, 160_792)


def test_amazon_beauty(tmp_path: Path) -> None:
    dataset = import_dataset(shared_data("amazon-beauty"), tmp_path / "d")
    assert sizes(dataset) == (22_363, 12_101, 198_502)
    lengths = dataset.interactions.groupby("user").size()
    assert (lengths.min(), lengths.max(), round(lengths.mean(), 2)) == (5, 204, 8.88)
    assert (dataset.interactions["position"] < lengths[dataset.interactions["user"]].to_numpy()).all()
    items = dataset.items
    assert items["item_id"].tolist() == [str(number) for number in range(1, 12_102)]
    assert items["keywords"].isna().sum() == 1 and items["attributes"].notna().all()
    assert len(set(items["attributes"].str.split(", ").explode())) == 637
    assert items["asin"][0] == "B004756YJA" and dataset.users["reviewer_id"][0] == "A1YJEY40YUW4SE"
    second = dataset.interactions[dataset.interactions["user"] == dataset.user("2")]
    assert items["item_id"][second["item"]].tolist() == ["6", "7", "8", "9", "10", "4", "11"]


def test_amazon_scientific_from_json_and_csv(tmp_path: Path) -> None:
    source = shared_data("amazon-scientific")
    dataset = import_dataset(source, tmp_path / "json")
    tables = import_dataset(source, tmp_path / "csv", format="tables")
    assert dataset.manifest["provenance"]["importer"] == "json"
    for one in (dataset, tables):
        assert sizes(one) == (8317, 4344, 58_492)
        filled = [
            int(one.items[column].notna().sum()) for column in ("title", "brand", "description", "categories")
        ]
        assert filled == [4344, 4332, 4221, 4213]
    files = [one.manifest["files"]["interactions.parquet"]["sha256"] for one in (dataset, tables)]
    assert files[0] == files[1]
    pd.testing.assert_frame_equal(dataset.items[tables.items.columns], tables.items)
    assert dataset.manifest["columns"]["items"] == tables.manifest["columns"]["items"]
    texts = dataset.items["description"].dropna()
    assert not texts.str.contains(r"<!--|<>|<br|&[a-z]+;|\s\s|\t", flags=re.IGNORECASE).any()
    assert texts.str.contains("< 80%", regex=False).any()  # a fact, not a tag
    changed = dataset.manifest["provenance"]["steps"][0]["changed"]
    assert changed["items.description"] > 100
