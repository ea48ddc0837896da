import errno
import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.importers import IMPORTERS, detect, import_dataset
from mmrec.data.importers.frames import from_frames
from mmrec.errors import ConfigError, DataError, DiskError

RECBOLE_INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\ti1\t4\t100\nu1\ti2\t3.5\t200\nu2\ti1\t5\t50\n"
RECBOLE_ITEM = (
    "item_id:token\tmovie_title:token_seq\tclass:token_seq\tdirector:token_seq\tyear:token\n"
    'i2\tA "quoted" title, really\tDrama Sci-Fi\tJohn_Lasseter Ash_O\'Neil\t1995\n'
    "i1\tToy Story\tComedy\t\tunknown\n"
)


def write(folder: Path, **files: str | bytes) -> Path:
    """Files under their names, in which ``__`` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def triples(dataset: Dataset) -> list[tuple[str, str]]:
    users, items = dataset.users["user_id"], dataset.items["item_id"]
    rows = zip(dataset.interactions["user"], dataset.interactions["item"], strict=True)
    return [(users[u], items[i]) for u, i in rows]


# --- RecBole


def test_recbole(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        s__inter=RECBOLE_INTER,
        s__item=RECBOLE_ITEM,
        s__user="user_id:token\tage:token\nu1\t7\nu2\t8\n",
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.manifest["provenance"]["importer"] == "recbole"
    assert triples(dataset) == [("u1", "i1"), ("u1", "i2"), ("u2", "i1")]
    assert dataset.interactions["rating"].tolist() == [4, 3.5, 5]
    assert dataset.interactions["timestamp"].tolist() == [100, 200, 50]
    assert dataset.items["item_id"].tolist() == ["i2", "i1"]
    assert dataset.items["movie_title"].tolist() == ['A "quoted" title, really', "Toy Story"]
    assert dataset.items["class"].tolist() == ["Drama, Sci-Fi", "Comedy"]
    assert dataset.items["director"][0] == "John Lasseter, Ash O'Neil" and pd.isna(
        dataset.items["director"][1]
    )
    kinds = dataset.manifest["columns"]["items"]
    assert kinds == {
        "item_id": "id",
        "movie_title": "text",
        "class": "tokens",
        "director": "tokens",
        "year": "tokens",
    }
    assert dataset.users["age"].tolist() == ["7", "8"]
    assert set(dataset.manifest["provenance"]["source_files"]) == {"s.inter", "s.item", "s.user"}


def test_recbole_parts_become_a_given_split(tmp_path: Path) -> None:
    head = "user_id:token\titem_id:token\n"
    source = write(
        tmp_path / "s",
        x__train__inter=head + "a\tx\nb\ty\n",
        x__valid__inter=head + "a\ty\n",
        x__test__inter=head + "a\tz\n",
    )
    split = import_dataset(source, tmp_path / "d").split()
    assert split.manifest["counts"] == {"train": 2, "valid": 1, "test": 1, "out": 0}
    assert split.test[0].tolist() == [2]


def test_recbole_vectors_become_features(tmp_path: Path) -> None:
    item = "item_id:token\temb:float_seq\nx\t0.5 1\ny\t\nz\t2 -1e1\n"
    source = write(tmp_path / "s", s__inter="user_id:token\titem_id:token\na\tx\n", s__item=item)
    features = import_dataset(source, tmp_path / "d").features("emb-recbole")
    assert features.vectors.tolist() == [[0.5, 1], [0, 0], [2, -10]] and features.present.tolist() == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("rating:flot", "did you mean 'float'"),
        ("name:tokenz", "did you mean 'token'"),
        ("rating", "NAME:TYPE"),
        (":float", "NAME:TYPE"),
        ("item_id:float", "'item_id' twice"),
    ],
)
def test_recbole_headers_are_checked(tmp_path: Path, column: str, message: str) -> None:
    source = write(tmp_path / "s", s__inter=f"user_id:token\titem_id:token\t{column}\na\tx\t1\n")
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("vectors", "message"),
    [("1 2\ny\t1 2 3", "2 to 3 numbers"), ("1 b\ny\t1 2", "numbers in column"), ("\ny\t", "none")],
)
def test_recbole_vectors_are_checked(tmp_path: Path, vectors: str, message: str) -> None:
    source = write(
        tmp_path / "s",
        s__inter="user_id:token\titem_id:token\na\tx\n",
        s__item=f"item_id:token\temb:float_seq\nx\t{vectors}\n",
    )
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")


def test_recbole_other_id_columns_are_renamed(tmp_path: Path) -> None:
    source = write(tmp_path / "s", s__inter="buyer:token\tsku:token\tat:float\na\tx\t5\n")
    with pytest.raises(DataError, match="column 'user_id'"):
        import_dataset(source, tmp_path / "d")
    columns = {"buyer": "user_id", "sku": "item_id", "at": "timestamp"}
    dataset = import_dataset(source, tmp_path / "d", columns=columns)
    assert triples(dataset) == [("a", "x")] and dataset.interactions["timestamp"].tolist() == [5]
    assert dataset.manifest["columns"]["interactions"]["timestamp"] == "time"
    with pytest.raises(DataError, match="did you mean 'buyer'"):
        import_dataset(source, tmp_path / "e", columns={"buyr": "user_id"})


# --- MMRec


def mmrec_folder(folder: Path, **more: str | bytes) -> Path:
    files: dict[str, str | bytes] = {
        "baby__inter": "userID\titemID\tx_label\n0\t2\t0\n0\t0\t1\n1\t2\t0\n1\t1\t2\n",
        "u_id_mapping__csv": "user_id\tuserID\nUB\t1\nUA\t0\n",
        "i_id_mapping__csv": "asin\titemID\nX\t0\nY\t1\nZ\t2\nCOLD\t3\n",
    }
    return write(folder, **{**files, **more})


def test_mmrec(tmp_path: Path) -> None:
    source = mmrec_folder(
        tmp_path / "s",
        items__csv='itemID,asin,keywords,tags\n2,Z,red hat,1 2\n0,X,"a, b",3\n1,Y,c,4\n3,COLD,,\n',
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.manifest["provenance"]["importer"] == "mmrec"
    assert dataset.items["item_id"].tolist() == ["X", "Y", "Z", "COLD"] and dataset.users[
        "user_id"
    ].tolist() == ["UA", "UB"]
    assert dataset.interactions[["user", "item", "label"]].to_numpy().tolist() == [
        [0, 2, 0],
        [0, 0, 1],
        [1, 2, 0],
        [1, 1, 2],
    ]
    assert (
        dataset.items["keywords"].tolist()[:3] == ["a, b", "c", "red hat"]
        and dataset.items["keywords"].isna()[3]
    )
    assert dataset.items["tags"].tolist()[:3] == ["3", "4", "1, 2"]
    assert "asin" not in dataset.items.columns  # the ids themselves
    assert dataset.split().manifest["counts"] == {"train": 2, "valid": 1, "test": 1, "out": 0}


def test_mmrec_without_mappings_keeps_the_numbers_and_fills_gaps(tmp_path: Path) -> None:
    source = write(tmp_path / "s", b__inter="userID\titemID\tx_label\n3\t4\t0\n1\t0\t2\n")
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.items["item_id"].tolist() == ["0", "1", "2", "3", "4"]
    assert dataset.users["user_id"].tolist() == ["0", "1", "2", "3"]
    assert dataset.interactions[["user", "item"]].to_numpy().tolist() == [[3, 4], [1, 0]]


def test_mmrec_with_an_incomplete_mapping(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = mmrec_folder(tmp_path / "s", i_id_mapping__csv="asin\titemID\nX\t0\nZ\t2\n")
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.items["item_id"].tolist() == ["0", "1", "2"]
    assert (
        dataset.items["raw_id"].isna().tolist() == [False, True, False] and dataset.items["raw_id"][2] == "Z"
    )
    assert "names 2 of 3" in capsys.readouterr().err


def npy(array: Any, **options: Any) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_mmrec_features(tmp_path: Path) -> None:
    image = np.array([[1, 2], [0, 0], [3, 4], [5, 6]], dtype=np.float32)
    source = mmrec_folder(
        tmp_path / "s", image_feat__npy=npy(image), text_feat__npy=npy(image[:, :1].astype(np.float64))
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.feature_names() == ["image-mmrec", "text-mmrec"]
    features = dataset.features("image-mmrec")
    assert features.vectors.tolist() == image.tolist() and features.present.tolist() == [
        True,
        False,
        True,
        True,
    ]
    assert features.modality == "image" and dataset.features("text-mmrec").dim == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(np.ones((3, 2), dtype=np.float32)), "each of the 4 items"),
        (npy(np.array([{"a": 1}], dtype=object), allow_pickle=True), "a matrix in"),
        (b"no array", "a matrix in"),
    ],
)
def test_mmrec_features_that_do_not_fit(tmp_path: Path, content: bytes, message: str) -> None:
    source = mmrec_folder(tmp_path / "s", image_feat__npy=content)
    with pytest.raises(DataError, match=message) as caught:
        import_dataset(source, tmp_path / "d")
    assert "image_feat.npy" in str(caught.value) and not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"baby__inter": "userID\titem\tx_label\n0\t1\t0\n"}, "column 'itemID' in baby.inter"),
        ({"baby__inter": "userID\titemID\tx_label\n0\tB0\t0\n"}, "'B0' in row 1"),
        ({"baby__inter": "userID\titemID\tx_label\n0\t-1\t0\n"}, "'-1' in row 1"),
        ({"baby__inter": "userID\titemID\tx_label\n0\t1\t5\n"}, "'5' in row 1"),
        ({"baby__inter": "userID\titemID\tx_label\n0\t1\n"}, "2 in line 2"),
        ({"i_id_mapping__csv": "asin\titemID\nX\t0\nY\t0\n"}, "0 in row 2"),
        ({"i_id_mapping__csv": "asin\tid\nX\t0\n"}, "column 'itemID'"),
        ({"i_id_mapping__csv": "asin\titemID\nX\t0\nY\t1\nX\t2\n"}, "'X' again in row 3"),
        ({"items__csv": "itemID,a\n0,x\n0,y\n"}, "each number once"),
    ],
)
def test_mmrec_files_are_checked(tmp_path: Path, files: dict[str, str], message: str) -> None:
    source = mmrec_folder(tmp_path / "s", **files)
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


# --- S3-Rec


def test_s3rec(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        Beauty__txt="1 10 2 3\n2 3 10\r\n10 2\n",
        Beauty_item2attributes__json='{"2": [5, 6], "10": [7]}',
        items__csv="item_id,asin,keywords\n10,A,ten\n2,B,two\n3,C,\n",
        users__csv="user_id,reviewer_id\n1,R1\n2,R2\n10,R10\n",
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.manifest["provenance"]["importer"] == "s3rec"
    assert dataset.items["item_id"].tolist() == ["2", "3", "10"] and dataset.users["user_id"].tolist() == [
        "1",
        "2",
        "10",
    ]
    assert triples(dataset) == [("1", "10"), ("1", "2"), ("1", "3"), ("2", "3"), ("2", "10"), ("10", "2")]
    assert dataset.interactions["position"].tolist() == [0, 1, 2, 0, 1, 0]
    assert dataset.items["asin"].tolist() == ["B", "C", "A"]
    assert dataset.items["attributes"][0] == "5, 6" and pd.isna(dataset.items["attributes"][1])
    assert dataset.users["reviewer_id"].tolist() == ["R1", "R2", "R10"]


def test_s3rec_of_one_file_with_names(tmp_path: Path) -> None:
    source = write(tmp_path / "s", seq__txt="ann hat shoe\n\nbob shoe\n") / "seq.txt"
    dataset = import_dataset(source, tmp_path / "d", format="s3rec")
    assert triples(dataset) == [("ann", "hat"), ("ann", "shoe"), ("bob", "shoe")]


def test_s3rec_repeated_items_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "s", a__txt="1 5 6 5\n")
    assert triples(import_dataset(source, tmp_path / "d")) == [("1", "5"), ("1", "6")]
    assert "1 repeated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__txt": "1 2 3\n\n4\n"}, "'4' in line 3"),
        ({"a__txt": "1 2 3\n1 4\n"}, "user '1' again in line 2"),
        ({"a__txt": "1 2 3\n", "b__txt": "1 2 3\n"}, r"a.txt, b.txt"),
        ({"a__txt": "1 2 3\n", "items__csv": "item,asin\n2,A\n"}, "column 'item_id'"),
        ({"a__txt": "1 2 3\n", "items__csv": "item_id,asin\n2,A\n2,B\n"}, "'2' twice"),
        ({"a__txt": "1 2 3\n", "a_item2attributes__json": '{"7": [1]}'}, "none, the first is '7'"),
        ({"a__txt": "1 2 3\n", "a_item2attributes__json": '{"2": 1}'}, "attribute"),
        ({"a__txt": "1 2 3\n", "a_item2attributes__json": "[}"}, "JSON in"),
    ],
)
def test_s3rec_files_are_checked(tmp_path: Path, files: dict[str, str], message: str) -> None:
    source = write(tmp_path / "s", **files)
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d", format="s3rec")
    assert not (tmp_path / "d").exists()


# --- MovieLens


def test_movielens(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        ratings__dat__gz=gzip.compress(b"1::20::5\n1::10::3\n2::20::4\n"),
        movies__dat="10::Amélie: Le Film (2001)::Comedy|Romance\n20::Heat (1995)::Action\n30::Untitled::Drama\n".encode(
            "latin-1"
        ),
        users__dat="1::F::1::10::02460\n2::M::56::16::55117\n",
    )
    write(source / "images", **{"20__jpg": b"poster"})
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.items["title"].tolist() == ["Amélie: Le Film (2001)", "Heat (1995)", "Untitled"]
    assert dataset.items["year"].tolist()[:2] == [2001, 1995] and np.isnan(dataset.items["year"][2])
    assert dataset.items["genres"].tolist() == ["Comedy, Romance", "Action", "Drama"]
    assert dataset.users["zip_code"].tolist() == ["02460", "55117"]
    assert triples(dataset) == [("1", "20"), ("1", "10"), ("2", "20")]
    assert dataset.interactions.columns.tolist() == ["user", "item", "rating"]
    assert dataset.items["image"].tolist()[1] == "20.jpg"


def test_movielens_with_times_and_utf8(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s", ratings__dat="1::20::5::978300760\n", movies__dat="20::Amélie (2001)::Comedy\n"
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.interactions["timestamp"].tolist() == [978300760]
    assert dataset.items["title"].tolist() == ["Amélie (2001)"] and dataset.items["year"].tolist() == [2001]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1::20::5\n1::10\n", "2 in line 2"),
        (b"1::20::5\n1::10::3::7\n", "4 in line 2"),
        (gzip.compress(b"1::20::5\n", mtime=0)[:-9], "gzip data"),
    ],
)
def test_movielens_files_are_checked(tmp_path: Path, content: bytes, message: str) -> None:
    name = "ratings__dat__gz" if content.startswith(b"\x1f") else "ratings__dat"
    source = write(tmp_path / "s", **{name: content})
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")


# --- JSON


def test_json(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        Sci__inter__json='{"0": [2, 10], "1": [2]}',
        Sci__item__json='{"10": {"title": "Ten &amp; more", "brand": ""}, "2": {"title": "<b>Two</b>", "categories": ["A", "B"]}}',
    )
    dataset = import_dataset(source, tmp_path / "d")
    assert dataset.manifest["provenance"]["importer"] == "json"
    assert dataset.items["item_id"].tolist() == ["2", "10"] and dataset.items["title"].tolist() == [
        "Two",
        "Ten & more",
    ]
    assert dataset.items["brand"].isna().all() and dataset.items["categories"][0] == "A, B"
    assert triples(dataset) == [("0", "2"), ("0", "10"), ("1", "2")]
    assert dataset.interactions["position"].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        ("[1, 2]", None, "a list"),
        ('{"0": 5}', None, "{'0': int"),
        ('{"0": [1.5]}', None, "float"),
        ('{"0": []}', None, "interactions in"),
        ('{"0": [1], "0": [2]}', None, "'0' twice"),
        ('{"0": [1]', None, "JSON in"),
        ('{"0": [1]}', '{"1": "title"}', "{'1': str"),
        ('{"0": [1]}', '{"1": {"title": "a"}, "1": {"title": "b"}}', "'1' twice"),
        ('{"0": [1, 7]}', '{"1": {"title": "a"}}', "items that are not in Sci.item.json"),
    ],
)
def test_json_files_are_checked(tmp_path: Path, inter: str, item: str | None, message: str) -> None:
    source = write(tmp_path / "s", Sci__inter__json=inter, **({"Sci__item__json": item} if item else {}))
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")
    assert not (tmp_path / "d").exists()


# --- own tables

INTERACTIONS = pd.DataFrame(
    {
        "user_id": ["a", "a", "b"],
        "item_id": [7, 8, 7],
        "timestamp": ["2024-01-01", "2024-01-02", "2024-01-03"],
    }
)
ITEMS = pd.DataFrame(
    {"item_id": [7, 8], "title": ["Red, hat", "Blue\nshoe"], "price": [1.5, None], "tags": [["x", "y"], []]}
)


def test_frames(tmp_path: Path) -> None:
    before = INTERACTIONS.copy()
    dataset = from_frames(INTERACTIONS, ITEMS, to=tmp_path / "d", name="shop")
    assert dataset.name == "shop" and triples(dataset) == [("a", "7"), ("a", "8"), ("b", "7")]
    assert dataset.interactions["timestamp"].tolist() == [1704067200 + 86400 * day for day in range(3)]
    assert dataset.items["title"].tolist() == ["Red, hat", "Blue shoe"]
    assert dataset.items["tags"][0] == "x, y" and pd.isna(dataset.items["tags"][1])
    pd.testing.assert_frame_equal(INTERACTIONS, before)  # the caller's frame is as it was


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".csv.gz"])
def test_files_of_all_formats_give_the_same_dataset(tmp_path: Path, suffix: str) -> None:
    files = {"interactions": INTERACTIONS, "items": ITEMS.drop(columns="tags")}
    source = tmp_path / "s"
    source.mkdir()
    for name, frame in files.items():
        path = source / f"{name}{suffix}"
        if suffix == ".parquet":
            frame.to_parquet(path)
        elif suffix == ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    dataset = import_dataset(source, tmp_path / "d")
    expected = from_frames(files["interactions"], files["items"], to=tmp_path / "e")
    assert dataset.hash == expected.hash
    assert detect(source) == "tables"


def test_own_column_names(tmp_path: Path) -> None:
    sales = pd.DataFrame({"customer": ["a"], "sku": ["x"], "bought": [5]})
    goods = pd.DataFrame({"sku": ["x"], "maker": ["Acme"]})
    columns = {"customer": "user_id", "sku": "item_id", "bought": "timestamp"}
    dataset = from_frames(sales, goods, to=tmp_path / "d", columns=columns, kinds={"maker": "text"})
    assert triples(dataset) == [("a", "x")] and dataset.interactions["timestamp"].tolist() == [5]
    assert dataset.manifest["columns"]["items"]["maker"] == "text"
    with pytest.raises(DataError, match="did you mean 'customer'"):
        from_frames(sales, goods, to=tmp_path / "e", columns={"costumer": "user_id"})
    with pytest.raises(DataError, match="two after renaming"):
        from_frames(sales.assign(user_id=1), goods, to=tmp_path / "e", columns=columns)
    with pytest.raises(ConfigError, match="did you mean 'text'"):
        from_frames(sales, goods, to=tmp_path / "e", columns=columns, kinds={"maker": "txt"})
    with pytest.raises(DataError, match="did you mean 'maker'"):
        from_frames(sales, goods, to=tmp_path / "e", columns=columns, kinds={"marker": "text"})
    with pytest.raises(ConfigError, match="always time"):
        from_frames(sales, goods, to=tmp_path / "e", columns=columns, kinds={"timestamp": "text"})


def test_semicolons_and_a_byte_order_mark(tmp_path: Path) -> None:
    source = write(tmp_path / "s", interactions__csv="\ufeffuser_id;item_id\r\na;x\r\nb;y\r\n")
    assert triples(import_dataset(source, tmp_path / "d")) == [("a", "x"), ("b", "y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b" \n", "an empty file"),
        (b"user_id,item_id", "only a header"),
        (b"user_id,item_id\n", "only a header"),
        (b"user_id,item_id\na\n", "1 in line 2"),
        (b"user_id,item_id\na,x\nb,y,z\nc\n", "3 in line 3: 'b,y,z', and 1 more"),
        (b'user_id,item_id\na,"x\nb,y\n', "closing quote"),
        (b"user_id,user_id\na,x\n", "'user_id' twice"),
        (b",user_id,item_id\n0,a,x\n", "index=False"),
        (b"user_id,item_id\na,\xff\xfe\n", "byte 0xff in line 2"),
        (b"user_id,item_id\na,\xe9t\xe9\n", "iconv"),
        ("user_id,item_id\na,x\n".encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary file"),
        (b"user_id,itemid\na,x\n", "did you mean 'itemid'"),
        (b"user,item\na,x\n", "did you mean 'user'"),
        (b"user_id,item_id\n,x\n", "'' in row 1"),
        (b"user_id,item_id,timestamp\na,x,1\nb,x,noon\n", "'noon' in row 2"),
    ],
)
def test_bad_files_leave_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    source = write(tmp_path / "s", interactions__csv=content)
    with pytest.raises(DataError, match=message) as caught:
        import_dataset(source, tmp_path / "d")
    assert caught.value.expected and caught.value.do and "interactions.csv" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_lone_inch_sign_is_no_open_quote(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        interactions__csv="user_id,item_id\na,x\n",
        items__csv='item_id,title\nx,5" pipe\ny,pipe\n',
    )
    assert import_dataset(source, tmp_path / "d").items["title"].tolist() == ['5" pipe', "pipe"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("interactions__parquet", b"PAR1 broken", "a Parquet table"),
        ("interactions__jsonl", b'{"user_id": 1}\n{"user_id": \n{"user_id": 2}\n', "in line 2"),
        ("interactions__jsonl", b"[1]\n", "a list"),
        ("interactions__csv__gz", b"no gzip", "gzip data"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    source = write(tmp_path / "s", **{name: content})
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d")


def test_two_tables_of_one_name(tmp_path: Path) -> None:
    source = write(
        tmp_path / "s",
        interactions__csv="user_id,item_id\na,x\n",
        interactions__tsv="user_id\titem_id\na\tx\n",
    )
    with pytest.raises(DataError, match="name the files themselves"):
        import_dataset(source, tmp_path / "d")


def test_frames_with_repeated_column_names(tmp_path: Path) -> None:
    frame = pd.DataFrame([["a", "x", "y"]], columns=["user_id", "item_id", "item_id"])
    with pytest.raises(DataError, match="one name per column"):
        from_frames(frame, to=tmp_path / "d")


# --- one import of all formats


def test_further_tables_join_those_of_the_format(tmp_path: Path) -> None:
    source = mmrec_folder(tmp_path / "s")
    titles = write(tmp_path / "t", titles__csv="asin,title\nZ,Zed\nQ,Unused\nX,Ex\n") / "titles.csv"
    dataset = import_dataset(source, tmp_path / "d", items=titles, columns={"asin": "item_id"})
    assert dataset.items["item_id"].tolist() == ["X", "Y", "Z", "COLD"]
    assert (
        dataset.items["title"].isna().tolist() == [False, True, False, True]
        and dataset.items["title"][2] == "Zed"
    )
    assert "titles.csv" in dataset.manifest["provenance"]["source_files"]


def test_a_table_of_interactions_with_its_items(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "s",
        sales__csv="user_id,item_id\na,x\n",
        goods__csv="sku,title\ny,Y\nx,X\n",
        people__csv="user_id,age\na,30\n",
    )
    dataset = import_dataset(
        folder / "sales.csv",
        tmp_path / "d",
        items=folder / "goods.csv",
        users=folder / "people.csv",
        columns={"sku": "item_id"},
    )
    assert dataset.items["item_id"].tolist() == ["y", "x"] and dataset.users["age"].tolist() == [30]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("item_id,title\nQ,q\n", "same ids"),
        ("item_id,title\nX,a\nX,b\n", "'X' twice"),
        ("sku,title\nX,a\n", "column 'item_id'"),
    ],
)
def test_further_tables_are_checked(tmp_path: Path, table: str, message: str) -> None:
    source = mmrec_folder(tmp_path / "s")
    titles = write(tmp_path / "t", titles__csv=table) / "titles.csv"
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d", items=titles)


def test_a_published_split_is_joined_by_pair(tmp_path: Path) -> None:
    source = write(tmp_path / "s", s__inter=RECBOLE_INTER)
    split = (
        write(tmp_path, split__tsv="user_id\titem_id\tx_label\nu2\ti1\t2\nu1\ti1\t0\nu1\ti2\t1\n")
        / "split.tsv"
    )
    dataset = import_dataset(source, tmp_path / "d", split_file=split)
    assert dataset.interactions["label"].tolist() == [0, 1, 2]
    assert dataset.split().manifest["options"] == {"source": "split.tsv"}
    assert "split.tsv" in dataset.manifest["provenance"]["source_files"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("u1\ti1\t0\nu1\ti2\t1\n", "1 pairs of s.inter are not in split.tsv"),
        ("u1\ti1\t0\nu1\ti2\t1\nu2\ti1\t0\nu9\ti1\t0\n", "1 pairs of split.tsv are not in s.inter"),
        ("u1\ti1\t0\nu1\ti2\t1\nu2\ti1\t0\nu2\ti1\t1\n", "1 pairs with two"),
        ("u1\ti1\t0\nu1\ti2\t1\nu2\ti1\t9\n", "'9' in row 3"),
    ],
)
def test_splits_of_other_pairs(tmp_path: Path, rows: str, message: str) -> None:
    source = write(tmp_path / "s", s__inter=RECBOLE_INTER)
    split = write(tmp_path, split__tsv=f"user_id\titem_id\tx_label\n{rows}") / "split.tsv"
    with pytest.raises(DataError, match=message):
        import_dataset(source, tmp_path / "d", split_file=split)
    assert not (tmp_path / "d").exists()


def test_a_second_split_for_labelled_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="interactions without labels"):
        import_dataset(mmrec_folder(tmp_path / "s"), tmp_path / "d", split_file=tmp_path / "split.tsv")


def test_another_picture_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "s", interactions__csv="user_id,item_id\na,x\n")
    pictures = write(tmp_path / "p", x__jpg=b"picture")
    dataset = import_dataset(source, tmp_path / "d", images=pictures)
    assert (dataset.images / dataset.items["image"][0]).read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("files", "format"),
    [
        ({"a__inter": "user_id:token\titem_id:token\n"}, "recbole"),
        ({"a__inter": "userID\titemID\tx_label\n"}, "mmrec"),
        ({"a__inter__json": "{}", "interactions__csv": "x"}, "json"),
        ({"ratings__dat": "1::1::1\n", "README__txt": "words here"}, "movielens"),
        ({"ratings__dat__gz": b"..."}, "movielens"),
        ({"a__txt": "1 2 3\n", "README__txt": "words"}, "s3rec"),
        ({"interactions__parquet": b"..."}, "tables"),
    ],
)
def test_formats_are_told_by_their_files(tmp_path: Path, files: dict[str, Any], format: str) -> None:
    assert detect(write(tmp_path / "s", **files)) == format
    assert format in IMPORTERS


def test_unknown_formats(tmp_path: Path) -> None:
    source = write(tmp_path / "s", notes__txt="nothing of use", data__xlsx="x")
    with pytest.raises(DataError) as caught:
        import_dataset(source, tmp_path / "d")
    assert "ratings.dat" in caught.value.expected and "data.xlsx, notes.txt" in caught.value.found
    with pytest.raises(ConfigError, match="did you mean 'recbole'"):
        import_dataset(source, tmp_path / "d", format="recbol")
    with pytest.raises(DataError, match="does not exist"):
        import_dataset(tmp_path / "nowhere", tmp_path / "d")
    with pytest.raises(DataError, match=r"table .csv, .tsv"):
        from_frames(source / "data.xlsx", to=tmp_path / "d")


@pytest.mark.parametrize("format", sorted(IMPORTERS))
def test_each_importer_names_what_it_misses(tmp_path: Path, format: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        import_dataset(tmp_path / "empty", tmp_path / "d", format=format)


def test_a_full_disk_during_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = mmrec_folder(tmp_path / "s")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="nothing half-written was left"):
        import_dataset(source, tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_results_go_to_stdout_only_by_the_caller(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_dataset(mmrec_folder(tmp_path / "s"), tmp_path / "d")
    captured = capsys.readouterr()
    assert captured.out == "" and "2 users, 4 items (1 without interactions), 4 interactions" in captured.err


def test_the_manifest_names_source_files_with_hashes(tmp_path: Path) -> None:
    import hashlib

    source = mmrec_folder(tmp_path / "s")
    import_dataset(source, tmp_path / "d", duplicates="last")
    provenance = json.loads((tmp_path / "d" / "dataset.json").read_text())["provenance"]
    assert (
        provenance["source_files"]["baby.inter"]
        == hashlib.sha256((source / "baby.inter").read_bytes()).hexdigest()
    )
    assert provenance["options"]["duplicates"] == "last" and provenance["importer"] == "mmrec"
