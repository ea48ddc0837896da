"""Row datasets from the files that people have, small ones and real ones, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from mmrec.data.rows.formats import detect, make_rows
from mmrec.data.rows.table import Lists
from mmrec.errors import ConfigError, DataError
from tests.command_line import Command
from tests.data.rows.world import make_items
from tests.data.rows.world import make_rows as make_frame
from tests.shared import shared_data

FRAPPE = "user,item,daytime,weekday,isweekend,homework,cost,weather,country,city"


def test_frappe(tmp_path: Path) -> None:
    source = shared_data("frappe")
    rows = make_rows(
        source / "frappe.validation.libfm",
        tmp_path / "rows",
        test=source / "frappe.test.libfm",
        fields=FRAPPE.split(","),
        item="item",
        group="user",
        show_progress=False,
    )
    counts = rows.split().manifest["counts"]
    assert counts["train"] + counts["valid"] == 57_722 and counts["test"] == 28_860
    assert abs(counts["valid"] - 5772) < 5 * np.sqrt(5772)
    parts = rows.manifest["parts"]
    assert parts["train"]["positives"] + parts["valid"]["positives"] == 19_063
    assert parts["test"]["positives"] == 9_536
    sizes = {field.name: field.size - 2 for field in rows.fields}
    assert (sizes["weekday"], sizes["isweekend"], sizes["cost"]) == (7, 2, 2)
    lines = [line.split()[1:] for line in (source / "frappe.test.libfm").read_text().splitlines()[:50]]
    words = pd.read_parquet(rows.path / "vocabularies.parquet")
    for place, field in enumerate(FRAPPE.split(",")):
        known = words[words["field"] == field].set_index("value")["id"].to_dict()
        column = rows.rows("test").table.columns[field]
        assert isinstance(column, np.ndarray)
        expected = [known.get(line[place].split(":")[0], sizes[field] + 1) for line in lines]
        assert column[:50].tolist() == expected


def test_criteo(tmp_path: Path) -> None:
    source = shared_data("criteo-10k")
    assert detect(source) == "criteo"
    rows = make_rows(source, tmp_path / "rows", min_count=2, show_progress=False)
    counts = rows.split().manifest["counts"]
    assert counts["train"] + counts["valid"] == 10_000 and counts["test"] == 10_000
    assert rows.manifest["parts"]["test"]["positives"] == 2526
    raw = np.loadtxt(source / "tiny_test_input.csv", delimiter=",", dtype=np.int64)
    for place, field in enumerate(rows.fields, start=1):
        column = rows.rows("test").table.columns[field.name]
        assert np.array_equal(column == 0, raw[:, place] == 0)
    assert len(rows.fields) == 39 and rows.rows("test").groups is None


def write_mmctr(folder: Path, *, test_labels: bool) -> None:
    """The layout of the challenge: padded histories, item 0 as padding, vectors of the items."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = np.arange(31)
    vectors = rng.normal(size=(31, 4)).astype(np.float32)
    vectors[0] = 0
    parquet.write_table(
        pa.table(
            {
                "item_id": ids,
                "item_tags": [[int(k) for k in rng.integers(0, 9, 5)] for _ in ids],
                "item_emb_d128": pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 4),
            }
        ),
        folder / "item_info.parquet",
    )
    for part, n in (("train", 200), ("valid", 20), ("test", 20)):
        sequences = [[0] * 3 + [int(k) for k in rng.integers(1, 31, rng.integers(0, 70))] for _ in range(n)]
        columns = {
            "user_id": rng.integers(1, 9, n),
            "item_id": rng.integers(1, 31, n),
            "item_seq": sequences,
            "likes_level": rng.integers(1, 11, n),
            "views_level": rng.integers(1, 11, n),
        }
        if part != "test" or test_labels:
            columns["label"] = rng.integers(0, 2, n)
        parquet.write_table(pa.table(columns), folder / f"{part}.parquet")


def test_mmctr(tmp_path: Path) -> None:
    write_mmctr(tmp_path / "given" / "MicroLens_1M_x1", test_labels=True)
    assert detect(tmp_path / "given") == "mmctr"
    rows = make_rows(tmp_path / "given", tmp_path / "rows", show_progress=False)
    assert rows.split().manifest["counts"] == {"train": 200, "valid": 20, "test": 20}
    raw = pd.read_parquet(tmp_path / "given" / "MicroLens_1M_x1" / "train.parquet")
    table = rows.rows("train").table
    assert table.columns["item_id"].tolist() == raw["item_id"].tolist()
    sequences = table.columns["item_seq"]
    assert isinstance(sequences, Lists) and table.groups is not None
    padded = sequences.padded(np.arange(200))
    assert padded.shape[1] == 64
    for row, sequence in enumerate(raw["item_seq"]):
        assert padded[row][padded[row] > 0].tolist() == [k for k in sequence if k][-64:]
    assert table.groups.tolist() == raw["user_id"].tolist()
    data = rows.training_data(rows.split(), {"joint": "item_emb_d128"})
    info = pd.read_parquet(tmp_path / "given" / "MicroLens_1M_x1" / "item_info.parquet")
    assert data.features["joint"].modality == "joint"
    assert np.array_equal(data.features["joint"].vectors, np.stack(info["item_emb_d128"].to_list())[1:])
    tags = data.item_values["item_tags"]
    for item in range(1, 31):
        assert tags[item][tags[item] > 0].tolist() == [k for k in info["item_tags"][item] if k]


def test_mmctr_without_test_labels_keeps_its_validation_rows_for_test(tmp_path: Path) -> None:
    write_mmctr(tmp_path / "given", test_labels=False)
    rows = make_rows(tmp_path / "given", tmp_path / "rows", show_progress=False)
    counts = rows.split().manifest["counts"]
    assert counts["train"] + counts["valid"] == 200 and counts["test"] == 20
    raw = pd.read_parquet(tmp_path / "given" / "valid.parquet")
    assert rows.rows("test").labels.tolist() == raw["label"].tolist()


@pytest.mark.parametrize(
    ("line", "words"),
    [("1 2:1 3:0.5", "'3:0.5'"), ("1 2:1", "Expected 3 columns, got 2"), ("2 2:1 3:1", "labels 1 and -1")],
)
def test_libfm_that_is_none(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "a.train.libfm").write_bytes(b"1 1:1 2:1\r\n-1 2:1 3:1\r\n" + line.encode() + b"\r\n")
    (tmp_path / "a.test.libfm").write_bytes(b"1 1:1 2:1\r\n")
    with pytest.raises(DataError, match=words):
        make_rows(tmp_path, tmp_path / "rows", show_progress=False)
    with pytest.raises(ConfigError, match="options of the format 'libfm'"):
        make_rows(tmp_path, tmp_path / "rows", negatives=4)


def test_the_command(mmrec: Command, tmp_path: Path) -> None:
    make_frame().to_csv(tmp_path / "all.csv", index=False)
    make_items().to_parquet(tmp_path / "items.parquet")
    given = (tmp_path / "all.csv", "--items", tmp_path / "items.parquet", "--test-share", 0.2)
    inferred = mmrec("data", "rows", *given, "--label", "clicked", "--infer")
    assert inferred.code == 0 and "a history by its name" not in inferred.err
    schema = yaml.safe_load(inferred.out)
    assert schema["fields"]["price"] == {"kind": "number"} and "words" in inferred.err
    schema["fields"]["seen"] = {"kind": "history", "separator": " "}
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(schema))
    outcome = mmrec(
        "data", "rows", *given, "--schema", tmp_path / "schema.yaml", "--to", tmp_path / "rows", "--json"
    )
    document = outcome.document
    assert outcome.code == 0 and document["dataset"] == str(tmp_path / "rows")
    assert sum(document["rows"].values()) == 300
    assert document["fields"]["item"] == {"kind": "category", "size": 12}
    text = mmrec("data", "rows", *given, "--schema", tmp_path / "schema.yaml", "--to", tmp_path / "more").out
    assert "rows, " in text and "history" in text and "items: genre (category" in text
    refused = mmrec("data", "rows", *given, "--to", tmp_path / "rows", "--negatives", 3)
    assert refused.code == 2 and "negatives" in refused.err
    assert mmrec("data", "rows", tmp_path / "all.csv").code == 2
