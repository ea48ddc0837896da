"""Small worlds in the very formats in which public datasets are published."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from itertools import product

import numpy as np
import pandas as pd
from PIL import Image

USERS, ITEMS = 8, 6  # everybody has rated everything: a 5-core of 48 ratings
PAIRS = list(product(range(1, USERS + 1), range(1, ITEMS + 1)))
SHAPE = {"users": USERS, "items": ITEMS, "interactions": USERS * ITEMS}
GENRES = 19


def packed(files: dict[str, str | bytes]) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def lines(rows: list[str]) -> bytes:
    return ("\n".join(rows) + "\n").encode("latin-1")


def jsonl(records: list[dict[str, object]]) -> bytes:
    return gzip.compress(b"".join(json.dumps(record).encode() + b"\n" for record in records))


def movielens_100k() -> dict[str, bytes]:
    films = ["1|Toy Story (1995)|01-Jan-1995||http://us.imdb.com/1|0|0|0|1|1|1|" + "|".join("0" * 13)]
    films += [
        f"{i}|Café {i} (199{i})|01-Feb-1996||http://us.imdb.com/{i}|1|" + "|".join("0" * 18)
        for i in range(2, ITEMS)
    ]
    films += [f"{ITEMS}|unknown||||1|" + "|".join("0" * 18)]
    files = {
        "ml-100k/u.data": lines([f"{u}\t{i}\t{1 + (u + i) % 5}\t{880000000 + u}" for u, i in PAIRS]),
        "ml-100k/u.item": lines(films),
        "ml-100k/u.user": lines([f"{u}|2{u}|F|writer|0246{u}" for u in range(1, USERS + 1)]),
        "ml-100k/README": b"terms",
    }
    return {"ml-100k.zip": packed(dict(files))}


def movielens_1m() -> dict[str, bytes]:
    files = {
        "ml-1m/ratings.dat": lines([f"{u}::{i}::{1 + (u + i) % 5}::{978300000 + u}" for u, i in PAIRS]),
        "ml-1m/movies.dat": lines([f"{i}::Amélie {i} (200{i})::Comedy|Romance" for i in range(1, ITEMS + 1)]),
        "ml-1m/users.dat": lines([f"{u}::M::25::4::0246{u}" for u in range(1, USERS + 1)]),
    }
    return {"ml-1m.zip": packed(dict(files))}


def movielens_32m() -> dict[str, bytes]:
    movies = ["movieId,title,genres", '1,"American President, The (1995)",Comedy|Drama']
    movies += [f"{i},Film {i} (1999),(no genres listed)" for i in range(2, ITEMS + 1)]
    ratings = [f"{u},{i},{0.5 * (1 + (u + i) % 10)},{944249077 + u}" for u, i in PAIRS]
    files = {
        "ml-32m/ratings.csv": "\n".join(["userId,movieId,rating,timestamp", *ratings, ""]),
        "ml-32m/movies.csv": "\n".join([*movies, ""]),
        "ml-32m/links.csv": "\n".join(
            ["movieId,imdbId,tmdbId"]
            + [f"{i},011470{i}," + ("" if i == 2 else f"86{i}") for i in range(1, ITEMS + 1)]
            + [""]
        ),
    }
    return {"ml-32m.zip": packed(dict(files))}


def asin(item: int) -> str:
    return f"B00000000{item}"


def amazon_2014(category: str = "Baby") -> dict[str, bytes]:
    reviews = [
        {
            "reviewerID": f"A{u}",
            "asin": asin(i),
            "overall": 5.0,
            "unixReviewTime": 1369699200 + 86400 * u,
            "reviewText": "x",
        }
        for u, i in PAIRS
    ]
    products: list[dict[str, object]] = [
        {
            "asin": asin(i),
            "title": f'It\'s a "bottle" {i}',
            "description": f"Holds {i} pints.",
            "price": 12.5 * i,
            "brand": "Coldwater",
            "imUrl": f"http://ecx.images-amazon.com/images/I/{i}.jpg",
            "categories": [["Baby", "Feeding"], ["Baby", "Bottles"]],
            "related": {"also_bought": [asin(1)]},
        }
        for i in range(ITEMS - 1, 0, -1)  # the last product has no metadata
    ]
    products.insert(1, {"asin": "NOBODYS001", "title": "never reviewed"})
    loose = gzip.compress("".join(f"{record!r}\n" for record in products).encode())
    return {f"reviews_{category}_5.json.gz": jsonl(reviews), f"meta_{category}.json.gz": loose}


def amazon_2018(category: str = "Musical_Instruments") -> dict[str, bytes]:
    reviews: list[dict[str, object]] = [
        {
            "overall": 4.0,
            "verified": True,
            "reviewerID": f"A{u}",
            "asin": asin(i),
            "unixReviewTime": 1477785600 + u,
            "style": {},
        }
        for u, i in PAIRS
    ]
    reviews += reviews[:3]  # repeated, as in the published files
    products: list[dict[str, object]] = [
        {
            "category": ["Musical Instruments", "Drums", "</span></span>"],
            "description": ["Loud.", "", "Very  loud."],
            "title": "var aPageStart = (new Date()).getTime();" if i == 2 else f"Drum {i}",
            "brand": "by\n Boom",
            "feature": ["wood", "skin"],
            "price": {1: "$1,299.00", 2: "$5.49 - $12.99", 3: ".a-box-inner{}"}.get(i, ""),
            "imageURL": [f"https://m.media/{i}_SS40_.jpg"],
            "imageURLHighRes": [f"https://m.media/{i}.jpg"] if i != 4 else [],
            "asin": asin(i),
        }
        for i in range(1, ITEMS + 1)
    ]
    products += [{**products[0], "title": "a second line for the same product"}]
    return {f"{category}_5.json.gz": jsonl(reviews), f"meta_{category}.json.gz": jsonl(products)}


def amazon_2023(category: str = "Baby_Products") -> dict[str, bytes]:
    ratings = ["user_id,parent_asin,rating,timestamp"] + [
        f"AE{u},{asin(i)},4.0,{1588687728923 + u}" for u, i in PAIRS
    ]
    products: list[dict[str, object]] = [
        {
            "main_category": "Baby",
            "title": f"Crib {i}",
            "features": ["soft", "safe"],
            "description": [] if i == 1 else ["A crib."],
            "price": None if i == 1 else 99.5,
            "images": [
                {
                    "thumb": "https://m.media/t.jpg",
                    "large": "https://m.media/pt.jpg",
                    "variant": "PT01",
                    "hi_res": None,
                },
                {
                    "thumb": "https://m.media/t.jpg",
                    "large": f"https://m.media/{i}.jpg",
                    "variant": "MAIN",
                    "hi_res": None,
                },
            ],
            "store": "The Store",
            "categories": ["Baby", "Nursery"] if i > 2 else [],
            "details": {"Brand": "Woodland"} if i > 1 else {},
            "parent_asin": asin(i),
        }
        for i in range(1, ITEMS + 1)
    ]
    return {
        f"{category}.csv.gz": gzip.compress(("\n".join(ratings) + "\n").encode()),
        f"meta_{category}.jsonl.gz": jsonl(products),
    }


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def microlens(size: str = "50k") -> dict[str, bytes]:
    pairs = ["user,item,timestamp"] + [f"{u},{i},{1583378629552 + 1000 * u}" for u, i in PAIRS]
    titles = [f'{i},"Title, the {i}th"' for i in range(1, ITEMS + 1)]
    if size == "100k":
        titles[1] = "2,Unquoted, with commas"
    files = {
        f"MicroLens-{size}_pairs.csv": "\n".join([*pairs, ""]).encode(),
        f"MicroLens-{size}_likes_and_views.txt": "".join(
            f"{i}\t{10 * i}\t{100 * i}\n" for i in range(1, ITEMS + 1)
        ).encode(),
        f"MicroLens-{size}_covers.zip": packed(
            {f"MicroLens-{size}_covers/{i}.jpg": picture() for i in range(1, ITEMS)}
        ),
    }
    if size == "50k":
        return files | {"MicroLens-50k_titles.csv": "\n".join(["item,title", *titles, ""]).encode()}
    tags = "videoID,category\n" + "".join(f"{i},food\n" for i in range(1, ITEMS + 1))
    return files | {
        "MicroLens-100k_title_en.csv": "\n".join([*titles, ""]).encode(),
        "tags_to_summary.csv": tags.encode(),
    }


def parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def mmctr() -> dict[str, bytes]:
    def rows(pairs: list[tuple[int, int]]) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "user_id": [u for u, _ in pairs],
                "item_id": [i for _, i in pairs],
                "item_seq": [[0] * 3 + [i, 1] + ([2] * 70 if u == 1 else []) for u, i in pairs],
                "likes_level": [3] * len(pairs),
                "views_level": [4] * len(pairs),
                "label": [(u + i) % 2 for u, i in pairs],
            }
        )

    features = pd.DataFrame(
        {
            "item_id": range(1, ITEMS + 1),
            "item_title": [f"Video {i}" for i in range(1, ITEMS + 1)],
            "item_tags": [[i, 7, 0, 0, 0] for i in range(1, ITEMS + 1)],
            "likes_level": 1,
            "views_level": 1,
        }
    )
    vectors = [np.full(4, i, dtype=np.float32) for i in range(ITEMS)]  # row 0 pads, the last video has none
    info = pd.DataFrame({"item_id": range(ITEMS), "item_tags": [[0] * 5] * ITEMS, "item_emb_d128": vectors})
    return {
        "MicroLens_1M_x1/train.parquet": parquet(rows(PAIRS[:40])),
        "MicroLens_1M_x1/valid.parquet": parquet(rows(PAIRS[40:])),
        "MicroLens_1M_x1/item_info.parquet": parquet(info),
        "item_feature.parquet": parquet(features),
    }
