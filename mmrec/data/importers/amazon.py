"""Amazon review files as published (2014, 2018, 2023): reviews or ratings, and product metadata with picture links.

=====  ==========================================  =====================================================
year   reviews                                     metadata
=====  ==========================================  =====================================================
2014   JSON lines: reviewerID, asin, overall,      lines of Python literals ("loose JSON"): asin, title,
       unixReviewTime                              description, brand, categories, price, imUrl
2018   the same keys                               JSON lines: category, feature, imageURLHighRes, …
2023   JSON lines: user_id, parent_asin, rating,   JSON lines: parent_asin, store, details, features,
       timestamp (milliseconds); also CSV with     images [{hi_res, large, thumb, variant}]
       a header
=====  ==========================================  =====================================================

Files are read line by line. Only the metadata of products that somebody reviewed are kept, and lines of other
products are passed over before they are parsed, which is what takes the time.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import re
import zlib
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmrec.data.importers.reading import describe_source, read_any_table, require_columns
from mmrec.data.raw import RawData
from mmrec.errors import DataError
from mmrec.progress import Progress, note

LONGEST_LINE = 16 << 20  # bytes; real lines stay below one million
_LONGEST_LITERAL = 4 << 20  # a syntax tree takes a hundred times the memory of its text
_TELL_EVERY = 20_000  # lines between two steps of the bar
_SMALL = 16 << 20  # bytes; smaller files need no bar
_JSON = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
_TABLE = (".csv", ".csv.gz")
_PRODUCT = re.compile(r"""['"](?:parent_)?asin['"]\s*:\s*['"]([^'"]+)['"]""")
_NUMBER = re.compile(r"\s*\$?\s*(\d[\d,]*(?:\.\d+)?)")
_KEYS = {  # ours: theirs, the first that is there
    "user_id": ("reviewerID", "user_id"),
    "item_id": ("parent_asin", "asin"),
    "rating": ("overall", "rating"),
    "timestamp": ("unixReviewTime", "timestamp"),
}
KINDS = {
    "title": "text",
    "description": "text",
    "features": "text",
    "brand": "tokens",
    "categories": "tokens",
    "price": "number",
    "image_url": "id",
}


def import_amazon(source: str | Path) -> RawData:
    """Read a folder with one file of reviews or ratings and at most one of metadata (``meta_…``).

    Items are ordered by product id. Products without metadata stay, without attributes; attributes that this
    edition does not have are left out.

    Args:
        source: The folder, as downloaded for one category.

    Raises:
        DataError: No such file, more than one, or a line that is no record.
    """
    folder = Path(source)
    reviews, metadata = _find_files(folder)
    table = reviews.name.endswith(_TABLE)
    interactions = _read_ratings(reviews) if table else read_reviews(reviews)
    items, files = None, [reviews]
    if metadata is not None:
        products = pd.Index(sorted(interactions["item_id"].unique()), name="item_id")
        described = read_metadata(metadata, set(products)).set_index("item_id")
        if len(described) < len(products):
            note(f"{len(products) - len(described):,} of {len(products):,} products have no metadata")
        items = described.reindex(products).dropna(axis="columns", how="all").reset_index()
        files.append(metadata)
    names = {"interactions": reviews.name, "items": metadata.name if metadata else "the products"}
    described_source = describe_source("amazon", folder, files)
    return RawData(interactions, items, None, None, {}, {"items": KINDS}, described_source, names)


def read_reviews(path: Path) -> pd.DataFrame:
    """User, product, rating and time of each review, in the file's order.

    Raises:
        DataError: A line that is no review.
    """
    users, items = _Codes(), _Codes()
    ratings, times = array("d"), array("q")
    for number, record in _records(path):
        try:
            user, item, rating, when = (record[_present(record, keys)] for keys in _KEYS.values())
            ratings.append(float(rating))
            times.append(int(when))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"user, product, rating and time in each line of {path.name}",
                f"{str(record)[:120]} in line {number:,}",
                "give the review file itself, not the metadata",
            ) from None
        users.add(str(user))
        items.add(str(item))
    if not ratings:
        raise DataError(f"reviews in {path}", "none", "download the file again")
    values = (users.column(), items.column(), np.frombuffer(ratings), np.frombuffer(times, dtype=np.int64))
    return pd.DataFrame(dict(zip(_KEYS, values, strict=True)))


def read_metadata(path: Path, wanted: Collection[str] | None = None) -> pd.DataFrame:
    """Texts, price and picture link of products, ordered by id; of repeated products the first line counts.

    Args:
        path: JSON lines or lines of Python literals, packed with gzip or not.
        wanted: Ids to keep; None keeps all.

    Raises:
        DataError: A line that is no product.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, record in _records(path, wanted):
        product = record.get("parent_asin") or record.get("asin")
        if not product:
            raise DataError(
                f"asin or parent_asin in each line of {path.name}",
                f"{str(record)[:120]} in line {number:,}",
                "give the metadata file",
            )
        if wanted is None or product in wanted:
            rows.setdefault(str(product), _describe(record))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(KINDS)).sort_index()
    return table.rename_axis("item_id").reset_index()


def _describe(record: dict[str, Any]) -> dict[str, Any]:
    title = _text(record.get("title"))
    details = record.get("details")
    brand = record.get("brand") or (details.get("Brand") if isinstance(details, dict) else None)
    return {
        "title": None if title and "getTime" in title else title,  # a script that the crawl took for a title
        "description": _text(record.get("description")),
        "features": _text(record.get("features") or record.get("feature")),
        "brand": _text(brand or record.get("store")),
        "categories": _categories(record),
        "price": _price(record.get("price")),
        "image_url": _picture(record),
    }


def _text(value: Any) -> str | None:
    parts = value if isinstance(value, list) else [value]
    return " ".join(" ".join(str(part).split()) for part in parts if part) or None


def _categories(record: dict[str, Any]) -> str | None:
    nested = record.get("categories") or record.get("category") or record.get("main_category") or []
    lists = nested if isinstance(nested, list) else [nested]
    flat = [name for entry in lists for name in (entry if isinstance(entry, list) else [entry])]
    names = [str(name).strip() for name in flat if name and "<" not in str(name)]  # remains of the page
    return ", ".join(dict.fromkeys(names)) or None


def _price(value: Any) -> float:
    """The first number of ``12.99``, ``"$1,299.00"`` or ``"$5.49 - $12.99"``; NaN for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else math.nan
    match = _NUMBER.match(value) if isinstance(value, str) else None
    return float(match[1].replace(",", "")) if match else math.nan


def _picture(record: dict[str, Any]) -> str | None:
    """Link of the main picture in the best resolution on offer."""
    images = record.get("images")
    if isinstance(images, list):
        main = sorted(
            (one for one in images if isinstance(one, dict)), key=lambda one: one.get("variant") != "MAIN"
        )
        links = [one.get(size) for one in main[:1] for size in ("hi_res", "large", "thumb")]
    elif isinstance(images, dict):  # the same data turned into columns
        links = [link for size in ("hi_res", "large", "thumb") for link in images.get(size) or []]
    else:
        links = [record.get("imUrl")]
        for key in ("imageURLHighRes", "imageURL", "image"):
            value = record.get(key)
            links += value if isinstance(value, list) else [value]
    return next((link for link in links if isinstance(link, str) and link.startswith("http")), None)


class _Codes:
    """A column of strings that repeat, kept as numbers while it grows."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._codes = array("q")

    def add(self, value: str) -> None:
        self._codes.append(self._known.setdefault(value, len(self._known)))

    def column(self) -> Any:
        names = pd.array(list(self._known), dtype="str")
        return names.take(np.frombuffer(self._codes, dtype=np.int64))


def _present(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    return keys[0] if keys[0] in record else keys[1]


def _records(path: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and content of each line; lines that name none of the ``wanted`` products are not parsed."""
    size = path.stat().st_size
    bar = Progress(f"read {path.name}", size >> 10, unit="KiB", show=size > _SMALL)
    with bar, path.open("rb") as packed, gzip.GzipFile(fileobj=packed) as unpacked:
        lines = unpacked if path.suffix == ".gz" else packed
        number = 0
        while line := _read_line(lines, path, number + 1):
            number += 1
            if number % _TELL_EVERY == 0:
                bar.advance((packed.tell() >> 10) - bar.done)
            text = line.decode("utf-8", "replace").strip()
            if not text or (wanted is not None and not _names_any(text, wanted)):
                continue
            yield number, _parse(text, path, number)


def _names_any(text: str, wanted: Collection[str]) -> bool:
    return any(match[1] in wanted for match in _PRODUCT.finditer(text))


def _read_line(lines: Any, path: Path, number: int) -> bytes:
    try:
        line: bytes = lines.readline(LONGEST_LINE + 1)
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(
            f"gzip data in {path}", f"{error} after line {number - 1:,}", "download the file again"
        ) from None
    if len(line) > LONGEST_LINE:
        raise DataError(
            f"lines below {LONGEST_LINE >> 20} MiB in {path.name}",
            f"line {number:,} is longer",
            "check the file",
        )
    return line


def _parse(text: str, path: Path, number: int) -> dict[str, Any]:
    """One record in JSON or, as in 2014, a Python literal (read without running anything)."""
    try:
        record = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        try:
            if len(text) > _LONGEST_LITERAL:
                raise ValueError("too long")
            record = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            record = None
    if not isinstance(record, dict):
        raise DataError(
            f"one record per line in {path.name}",
            f"{text[:120]!r} in line {number:,}",
            "download the file again",
        )
    return record


def _read_ratings(path: Path) -> pd.DataFrame:
    table = read_any_table(path)
    names = {theirs: ours for ours, keys in _KEYS.items() for theirs in keys if ours not in table.columns}
    table = table.rename(columns=names)
    require_columns(table, ["user_id", "item_id"], path.name, renaming=False)
    return table[[name for name in _KEYS if name in table.columns]]


def _find_files(folder: Path) -> tuple[Path, Path | None]:
    """The reviews and, where there is one, the metadata file."""
    files = sorted(path for path in folder.glob("*") if path.name.endswith((*_JSON, *_TABLE)))
    metadata = [path for path in files if path.name.startswith("meta_")]
    reviews = [path for path in files if path not in metadata]
    if len(reviews) != 1 or len(metadata) > 1:
        raise DataError(
            f"one review file, and at most one meta_… file, in {folder}",
            ", ".join(path.name for path in files) or "none",
            "put the files of one category into a folder of their own",
        )
    return reviews[0], metadata[0] if metadata else None
