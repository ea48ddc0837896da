from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmrec.data.dataset import Dataset
from mmrec.encode.inputs import Inputs, collect_inputs, join_texts, read_batches
from mmrec.encode.pictures import Reason
from mmrec.errors import FeatureError
from tests.encode.conftest import write_dataset


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "item_id": ["a", "b", "c", "d"],
            "genre": ["war love", None, "", "crime"],
            "title": ["Ships", "Who?", None, "  Old\n  dogs "],
            "plot": ["They sail.", "", None, "They sleep"],
            "year": [1999, 2001, 1950, 1960],
            "image": ["a.png", "b.png", None, "sub/d.png"],
        }
    )


KINDS = {"genre": "tokens", "title": "text", "plot": "text", "year": "number", "image": "image"}


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    folder = write_dataset(tmp_path / "data", table(), KINDS)
    (folder / "images" / "sub").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(folder / "images" / "a.png")
    Image.new("RGB", (8, 8), "red").save(folder / "images" / "sub" / "d.png")
    (folder / "images" / "b.png").write_bytes(b"no picture")
    return Dataset(folder)


def test_texts_are_joined_in_order_without_the_empty_ones(data: Dataset) -> None:
    inputs = collect_inputs(data, "text", None)
    assert inputs.manifest["fields"] == ["title", "plot", "genre"]  # text before tokens
    assert inputs.rows.tolist() == [0, 1, 3]
    assert inputs.texts == ["Ships. They sail. war love", "Who?", "Old dogs. They sleep. crime"]
    chosen = collect_inputs(data, "text", ["year", "title"])
    assert chosen.texts == ["1999. Ships", "2001. Who?", "1950", "1960. Old dogs"]


def test_lists_of_words_are_joined() -> None:
    items = pd.DataFrame({"cast": [np.array(["Ann", "Bob"]), None, ["Cy"], np.array([])]})
    assert join_texts(items, ["cast"]) == ["Ann Bob", "", "Cy", ""]


def test_columns_that_are_not_there(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"'tittle'[\s\S]*did you mean 'title'"):
        collect_inputs(data, "text", ["tittle"])
    with pytest.raises(FeatureError, match="leave --fields out"):
        collect_inputs(data, "image", ["title"])
    bare = write_dataset(tmp_path / "bare", pd.DataFrame({"item_id": ["a"], "year": [1]}), {"year": "number"})
    with pytest.raises(FeatureError, match=r"year \(number\)"):
        collect_inputs(Dataset(bare), "text", None)
    with pytest.raises(FeatureError, match="column image"):
        collect_inputs(Dataset(bare), "image", None)
    empty = write_dataset(
        tmp_path / "empty", pd.DataFrame({"item_id": ["a"], "plot": [""]}), {"plot": "text"}
    )
    with pytest.raises(FeatureError, match="at least one item with text"):
        collect_inputs(Dataset(empty), "text", None)


def test_the_hash_follows_content_and_order(data: Dataset) -> None:
    def digest(modality: str, fields: list[str] | None = None) -> str:
        return str(collect_inputs(data, modality, fields, show_progress=False).manifest["sha256"])

    assert digest("text") == digest("text")
    assert digest("text") != digest("text", ["plot", "title", "genre"])
    before = digest("image"), digest("joint")
    Image.new("RGB", (8, 8), "blue").save(data.images / "a.png")
    after = digest("image"), digest("joint")
    assert before[0] != after[0]
    assert before[1] != after[1]
    (data.images / "a.png").unlink()
    assert digest("image") not in (before[0], after[0])


def test_pictures_are_read_in_batches_with_reasons(data: Dataset) -> None:
    inputs = collect_inputs(data, "image", None)
    assert inputs.rows.tolist() == [0, 1, 3]
    (data.images / "a.png").unlink()
    first, second = read_batches(inputs, [np.array([1, 0]), np.array([2])])
    assert first.reasons.tolist() == [Reason.UNREADABLE, Reason.MISSING]
    assert first.values == []
    assert not first.usable.any()
    assert [picture.size for picture in second.values] == [(8, 8)]
    assert second.positions.tolist() == [2]


def test_joint_batches_hold_what_there_is(data: Dataset) -> None:
    inputs = collect_inputs(data, "joint", ["plot"])
    assert inputs.rows.tolist() == [0, 1, 3]
    (batch,) = read_batches(inputs, [np.arange(3)])
    assert batch.usable.tolist() == [True, False, True]  # item b: no plot, broken picture
    assert [text for text, _ in batch.values] == ["They sail.", "They sleep"]
    text_only = Inputs(np.array([5]), ["words"], [None])
    (batch,) = read_batches(text_only, [np.array([0])])
    assert batch.values == [("words", None)]
    assert batch.reasons.tolist() == [Reason.OK]
