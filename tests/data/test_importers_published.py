"""What the importers of published files make of each field, by hand."""

from __future__ import annotations

import gzip
import json
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.importers import amazon, detect, import_dataset
from mmrec.data.importers.amazon import import_amazon, read_metadata, read_reviews
from mmrec.data.importers.microlens import import_microlens
from mmrec.data.importers.mmctr import HISTORY, import_mmctr
from mmrec.data.importers.movielens import import_movielens
from mmrec.errors import DataError
from tests.data import published
from tests.data.published import asin


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    """Published files in a folder; zips are unpacked into it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zip"):
            zipfile.ZipFile(BytesIO(data)).extractall(folder)
        else:
            (folder / name).write_bytes(data)
    return folder


def item(dataset: Dataset, item_id: str) -> dict[str, object]:
    row = dataset.items[dataset.items["item_id"] == item_id].iloc[0].to_dict()
    return {str(key): None if pd.isna(value) else value for key, value in row.items()}


# MovieLens


def test_movielens_100k(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.movielens_100k()) / "ml-100k"
    assert detect(source) == "movielens"
    dataset = import_dataset(source, tmp_path / "d")
    assert item(dataset, "1") == {
        "item_id": "1",
        "title": "Toy Story (1995)",
        "release_date": "01-Jan-1995",
        "imdb_url": "http://us.imdb.com/1",
        "year": 1995,
        "genres": "Animation, Children's, Comedy",
    }
    assert item(dataset, "2")["title"] == "Café 2 (1992)" and item(dataset, "2")["genres"] is None
    assert item(dataset, "6")["year"] is None
    assert dataset.interactions[["user", "item", "rating", "timestamp"]].iloc[1].tolist() == [
        0,
        1,
        4,
        880000001,
    ]
    assert dataset.users.iloc[0].tolist() == ["1", "21", "F", "writer", "02461"]  # leading zero kept
    assert dataset.manifest["columns"]["items"]["imdb_url"] == "id"


def test_movielens_100k_incomplete(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.movielens_100k()) / "ml-100k"
    (source / "u.user").unlink()
    with pytest.raises(DataError, match=r"no u\.user"):
        import_movielens(source)


def test_movielens_32m(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.movielens_32m()) / "ml-32m"
    assert detect(source) == "movielens"
    dataset = import_dataset(source, tmp_path / "d")
    assert item(dataset, "1") == {
        "item_id": "1",
        "title": "American President, The (1995)",
        "genres": "Comedy, Drama",
        "imdb_id": "0114701",
        "tmdb_id": "861",
        "year": 1995,
    }
    assert item(dataset, "2")["genres"] is None and item(dataset, "2")["tmdb_id"] is None
    assert dataset.interactions["rating"].iloc[0] == 1.5
    assert dataset.interactions["timestamp"].dtype == np.int64


def test_movielens_csv_of_another_kind(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.movielens_32m()) / "ml-32m"
    (source / "ratings.csv").write_text("userId,movieId,rating\n1,2,x\n")
    with pytest.raises(DataError, match="userId, movieId, rating, timestamp"):
        import_movielens(source)


# Amazon


def test_amazon_2014_with_loose_metadata(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.amazon_2014())
    assert detect(source) == "amazon"
    dataset = import_dataset(source, tmp_path / "d", k_core=5)
    assert dataset.items["item_id"].tolist() == [
        asin(i) for i in range(1, 7)
    ]  # by id, though the file is not
    assert item(dataset, asin(1)) == {
        "item_id": asin(1),
        "title": 'It\'s a "bottle" 1',
        "description": "Holds 1 pints.",
        "brand": "Coldwater",
        "categories": "Baby, Feeding, Bottles",
        "price": 12.5,
        "image_url": "http://ecx.images-amazon.com/images/I/1.jpg",
    }
    assert {key for key, value in item(dataset, asin(6)).items() if value is not None} == {"item_id"}
    kinds = dataset.manifest["columns"]["items"]
    assert [kinds[name] for name in ("title", "brand", "price", "image_url")] == [
        "text",
        "tokens",
        "number",
        "id",
    ]
    assert dataset.interactions.iloc[0][["rating", "timestamp"]].tolist() == [5.0, 1369699200 + 86400]
    assert set(dataset.manifest["provenance"]["source_files"]) == set(published.amazon_2014())


def test_amazon_2018(tmp_path: Path) -> None:
    dataset = import_dataset(lay(tmp_path / "s", published.amazon_2018()), tmp_path / "d", k_core=5)
    assert dataset.n_interactions == 48  # the repeated reviews are gone
    first = item(dataset, asin(1))
    assert first["title"] == "Drum 1"  # of two lines the first
    assert first["description"] == "Loud. Very loud."
    assert (first["features"], first["brand"]) == ("wood skin", "by Boom")
    assert first["categories"] == "Musical Instruments, Drums"
    assert [item(dataset, asin(i))["price"] for i in (1, 2, 3, 4)] == [1299.0, 5.49, None, None]
    assert item(dataset, asin(2))["title"] is None
    assert first["image_url"] == "https://m.media/1.jpg"
    assert item(dataset, asin(4))["image_url"] == "https://m.media/4_SS40_.jpg"


def test_amazon_2023(tmp_path: Path) -> None:
    dataset = import_dataset(lay(tmp_path / "s", published.amazon_2023()), tmp_path / "d", k_core=5)
    assert item(dataset, asin(1)) == {
        "item_id": asin(1),
        "title": "Crib 1",
        "description": None,
        "features": "soft safe",
        "brand": "The Store",
        "categories": "Baby",
        "price": None,
        "image_url": "https://m.media/1.jpg",
    }
    assert (item(dataset, asin(3))["brand"], item(dataset, asin(3))["categories"]) == (
        "Woodland",
        "Baby, Nursery",
    )
    assert dataset.interactions["timestamp"].iloc[0] == 1588687728924


def test_amazon_2023_reviews_name_the_parent(tmp_path: Path) -> None:
    review = {
        "rating": 5.0,
        "asin": "CHILD",
        "parent_asin": "PARENT",
        "user_id": "AE",
        "timestamp": 1588687728923,
    }
    (tmp_path / "Baby_Products.jsonl").write_text(json.dumps(review) + "\n\n" + json.dumps(review))
    table = read_reviews(tmp_path / "Baby_Products.jsonl")
    assert table.to_dict("list") == {
        "user_id": ["AE"] * 2,
        "item_id": ["PARENT"] * 2,
        "rating": [5.0] * 2,
        "timestamp": [1588687728923] * 2,
    }


def test_amazon_metadata_turned_into_columns(tmp_path: Path) -> None:
    images = {"hi_res": [None, "https://m/2.jpg"], "large": ["https://m/1.jpg", None], "thumb": []}
    (tmp_path / "meta.jsonl").write_text(json.dumps({"parent_asin": "P", "images": images}))
    assert read_metadata(tmp_path / "meta.jsonl")["image_url"].tolist() == ["https://m/2.jpg"]


def test_only_wanted_products_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lay(tmp_path, published.amazon_2014())
    parsed: list[str] = []
    real = amazon._parse
    monkeypatch.setattr(amazon, "_parse", lambda text, *more: parsed.append(text) or real(text, *more))
    assert read_metadata(source / "meta_Baby.json.gz", {asin(2)})["item_id"].tolist() == [asin(2)]
    assert len(parsed) == 1


def test_without_metadata(tmp_path: Path) -> None:
    source = lay(tmp_path, published.amazon_2014())
    (source / "meta_Baby.json.gz").unlink()
    raw = import_amazon(source)
    assert raw.items is None and len(raw.interactions) == 48


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'reviewerID': __import__('os').getcwd()}", "one record per line"),
        ("[1, 2]", "one record per line"),
        ("{'reviewerID': 'A', ", "one record per line"),
        ("{" * 5000, "one record per line"),
        ('{"reviewerID": "A", "asin": "B"}', "user, product, rating and time"),
        ('{"reviewerID": "A", "asin": "B", "overall": "good", "unixReviewTime": 1}', "user, product, rating"),
        ('{"reviewerID": "A", "asin": "B", "overall": 1, "unixReviewTime": 1e999}', "user, product, rating"),
    ],
)
def test_lines_that_are_no_reviews(tmp_path: Path, line: str, message: str) -> None:
    good = '{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 1}'
    (tmp_path / "reviews.json").write_text(f"{good}\n{line}\n")
    with pytest.raises(DataError, match=message) as caught:
        read_reviews(tmp_path / "reviews.json")
    assert "line 2" in caught.value.found


def test_metadata_in_place_of_reviews(tmp_path: Path) -> None:
    source = lay(tmp_path, published.amazon_2014())
    with pytest.raises(DataError, match="not the metadata"):
        read_reviews(source / "meta_Baby.json.gz")
    with pytest.raises(DataError, match="give the metadata file"):
        (tmp_path / "meta.json").write_text('{"title": "x"}')
        read_metadata(tmp_path / "meta.json")


def test_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lay(tmp_path, published.amazon_2014())
    path = source / "reviews_Baby_5.json.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="gzip data"):
        read_reviews(path)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(DataError, match="reviews in"):
        read_reviews(path)
    monkeypatch.setattr(amazon, "LONGEST_LINE", 1000)
    path.write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(DataError, match="line 1 is longer"):
        read_reviews(path)


def test_two_categories_in_one_folder(tmp_path: Path) -> None:
    source = lay(tmp_path, {**published.amazon_2014("Baby"), **published.amazon_2014("Beauty")})
    with pytest.raises(DataError, match="a folder of their own"):
        import_amazon(source)


# MicroLens


def test_microlens_50k(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.microlens())
    assert detect(source) == "microlens"
    dataset = import_dataset(source, tmp_path / "d")
    assert item(dataset, "3") == {
        "item_id": "3",
        "title": "Title, the 3th",
        "likes": 30,
        "views": 300,
        "image": "3.jpg",
    }
    assert item(dataset, "6")["image"] is None  # no cover
    assert dataset.interactions["timestamp"].iloc[0] == 1583378630552
    assert (dataset.images / "3.jpg").is_file()


def test_microlens_100k(tmp_path: Path) -> None:
    raw = import_microlens(lay(tmp_path, published.microlens("100k")))
    assert raw.items is not None
    assert raw.items["title"].tolist()[:2] == ["Title, the 1th", "Unquoted, with commas"]
    assert raw.items["category"].unique().tolist() == ["food"]


def test_microlens_items_are_ordered_by_number(tmp_path: Path) -> None:
    (tmp_path / "M_pairs.csv").write_text("user,item,timestamp\n1,10,5\n1,9,6\n2,100,7\n")
    raw = import_microlens(tmp_path)
    assert raw.items is not None and raw.items["item_id"].tolist() == ["9", "10", "100"]
    assert raw.images is None


def test_microlens_unusable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"_pairs\.csv"):
        import_microlens(tmp_path)
    (tmp_path / "a_pairs.csv").write_text("user,item,timestamp\n1,10,5\n")
    (tmp_path / "a_titles.csv").write_text("item,title\n10,x\nten,y\n")
    with pytest.raises(DataError, match="ten"):
        import_microlens(tmp_path)
    (tmp_path / "b_pairs.csv").write_text("user,item,timestamp\n1,10,5\n")
    with pytest.raises(DataError, match="one edition"):
        import_microlens(tmp_path)


# MM-CTR


def test_mmctr(tmp_path: Path) -> None:
    source = lay(tmp_path / "s", published.mmctr())
    assert detect(source) == "mmctr"
    dataset = import_dataset(source, tmp_path / "d")
    rows = dataset.interactions
    assert rows["rating"].tolist() == [float((u + i) % 2) for u, i in published.PAIRS]
    assert rows["history"].iloc[6] == "1 1"  # user 2, video 1; padding is gone
    assert rows["history"].iloc[11] == "6 1"
    first = rows["history"].iloc[0].split()  # 72 videos watched, the latest are kept
    assert len(first) == HISTORY and set(first) == {"2"}
    split = dataset.split("default")
    assert (len(split.train.items), len(split.valid.items), len(split.test.items)) == (40, 8, 0)
    assert item(dataset, "3")["title"] == "Video 3" and item(dataset, "3")["tags"] == "3 7"
    table = dataset.features("joint-mmctr")
    assert table.vectors.tolist() == [[i] * 4 for i in range(1, 6)] + [[0] * 4]
    assert table.present.tolist() == [True] * 5 + [False]


def test_mmctr_clicks_alone(tmp_path: Path) -> None:
    dataset = import_dataset(lay(tmp_path / "s", published.mmctr()), tmp_path / "d", min_rating=1)
    assert dataset.n_interactions == 24 and set(dataset.interactions["rating"]) == {1.0}


def test_mmctr_histories_of_fixed_length(tmp_path: Path) -> None:
    """Arrow also writes lists as arrays of one length, and empty histories exist."""
    import pyarrow as pa

    from mmrec.data.importers.mmctr import _histories

    fixed = pa.array([[0, 0, 5], [0, 0, 0], [1, 2, 3]], pa.list_(pa.int64(), 3))
    assert _histories(pa.chunked_array([fixed])).tolist() == ["5", "", "1 2 3"]


def test_mmctr_incomplete(tmp_path: Path) -> None:
    source = lay(tmp_path, published.mmctr())
    (source / "item_feature.parquet").write_bytes(published.parquet(pd.DataFrame({"item_id": [1]})))
    with pytest.raises(DataError, match="item_title"):
        import_mmctr(source)
    (source / "MicroLens_1M_x1" / "valid.parquet").unlink()
    with pytest.raises(DataError, match=r"valid\.parquet"):
        import_mmctr(source)
