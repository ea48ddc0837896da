"""Items that come after the training: what vectors and codes they get, and what an addition leaves behind."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.items import add_items
from mmrec.bundle.manifest import ITEM_VECTORS
from mmrec.bundle.newcomers import Newcomers
from mmrec.codes.tokenize import tokenize
from mmrec.data.dataset import Dataset, TrainingData
from mmrec.data.histories import Histories
from mmrec.data.rows.catalogue import rows_from_dataset
from mmrec.data.split import split
from mmrec.encode.encoders import EncoderOptions
from mmrec.encode.features import FeatureTable
from mmrec.errors import BundleError, ConfigError, DataError, FeatureError
from mmrec.registry import model_class
from mmrec.runs import Run
from mmrec.train import train
from tests.bundle.stall import N_ITEMS, N_USERS, NEW, draw, make_stall
from tests.forks import Forks
from tests.learning import SMALL
from tests.tastes import ranker_config
from tests.worlds import planted_blocks

BOTH = {"text": "text-tfidf", "image": "image-histogram"}
MODELS: dict[str, dict[str, Any]] = {
    "freedom": {"params": {"dim": 8, "knn_k": 4, "dropout": 0.0}, "features": BOTH},
    "bpr": {"params": {"dim": 8}},
    "unisrec": {"params": {"dim": 8, "max_length": 5, "experts": 2}, "features": BOTH},
    "tiger": {"params": {**SMALL, "max_length": 5}, "codes": {"items": "text"}},
    "ease": {"params": {}},
}
EPOCHS = {"freedom": 15, "bpr": 15}  # the others are looked at for what is exact
FRUIT_BUYER, TOOL_BUYER = "u0", "u1"


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    dataset = make_stall(tmp_path_factory.mktemp("stall") / "stall")
    tokenize(
        dataset,
        features=["text-tfidf"],
        name="text",
        levels=2,
        size=4,
        show_progress=False,
        allow_collapse=True,
    )
    return dataset


@pytest.fixture(scope="module")
def bundles(stall: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of each of :data:`MODELS`; copy it before altering it."""
    folder, made = tmp_path_factory.mktemp("bundles"), {}
    for name, sections in MODELS.items():
        config = {
            "model": name,
            "data": str(stall.path),
            "train": {"epochs": EPOCHS.get(name, 1), "batch_size": 64, "lr": 0.05, "monitor": "recall@5"},
            "evaluate": {"ks": [5]},
            **sections,
        }
        run = train(config, run=folder / f"run-{name}", show_progress=False)
        kept: Any = {"text": "text-tfidf"} if name == "bpr" else name == "freedom"
        made[name] = export(run, folder / name, features=kept, images="copy" if name == "freedom" else "none")
    return made


@pytest.fixture
def freedom(bundles: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles["freedom"], tmp_path / "freedom"))


def places(bundle: Bundle, user: str) -> dict[str, int]:
    """Place of each item in the list of a user."""
    found = bundle.recommend(user, k=100, exclude_seen=False)[0]["items"]
    return {entry["item"]: place for place, entry in enumerate(found)}


@pytest.mark.parametrize("name", ["freedom", "bpr"])
def test_new_items_are_recommended_to_those_who_like_their_content(
    name: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    done = add_items(bundles[name], NEW, to=tmp_path / "new")
    assert (done["added"], done["replaced"], done["items"]) == (2, 0, N_ITEMS + 2)
    bundle = Bundle(tmp_path / "new")
    for user, liked, other in ((FRUIT_BUYER, "new-fruit", "new-tool"), (TOOL_BUYER, "new-tool", "new-fruit")):
        place = places(bundle, user)
        assert place[liked] < N_ITEMS / 2 + 1 <= place[other], place
        recommended = [entry["item"] for entry in bundle.recommend(user, k=4)[0]["items"]]
        assert liked in recommended
    row = bundle.items.iloc[bundle.item("new-tool")]
    assert row["title"] == "saw and steel drill"
    assert pd.isna(row["price"])
    assert bundle.manifest.trained_items == N_ITEMS
    assert bundle.manifest.counts.without["image"] == 3
    assert "2 items added" in (tmp_path / "new" / "README.md").read_text()
    assert np.array_equal(bundle.item_vectors[:N_ITEMS], Bundle(bundles[name]).item_vectors)


def test_vectors_of_neighbours_are_those_of_the_formula(bundles: dict[str, Path], stall: Dataset) -> None:
    bundle = Bundle(bundles["freedom"])
    rng = np.random.default_rng(1)
    tables = {modality: stall.features(name) for modality, name in BOTH.items()}
    text = np.asarray(tables["text"].vectors)[[0, 5, 7]] + 0.1 * rng.random((3, tables["text"].dim))
    image = np.abs(rng.normal(size=(3, 192)))
    masks = {"text": np.array([True, True, False]), "image": np.array([True, False, True])}
    found = Newcomers(bundle).vectors_from_features(
        {
            "text": (text.astype(np.float32), masks["text"]),
            "image": (image.astype(np.float32), masks["image"]),
        }
    )
    vectors = bundle.item_vectors.astype(np.float64)
    seen = {int(item) for user in range(N_USERS) for item in bundle.seen(user)}
    for row in range(3):
        total, length, count = np.zeros(8), 0.0, 0
        for modality, own in (("text", text), ("image", image)):
            if not masks[modality][row]:
                continue
            query = own[row].astype(np.float32).astype(np.float64)
            cosines = []
            for item in sorted(seen):
                other = np.asarray(tables[modality].vectors)[item].astype(np.float64)
                if tables[modality].present[item]:
                    cosines.append((query @ other / np.linalg.norm(query) / np.linalg.norm(other), item))
            best = sorted(cosines, key=lambda pair: (-pair[0], pair[1]))[:10]
            weights = [math.exp((cosine - best[0][0]) / 0.1) for cosine, _ in best]
            for weight, (_, item) in zip(weights, best, strict=True):
                total += weight / sum(weights) * vectors[item]
                length += weight / sum(weights) * float(np.linalg.norm(vectors[item]))
            count += 1
        expected = total / np.linalg.norm(total) * length / count
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-6)


def test_the_same_bits_twice_and_in_any_order(bundles: dict[str, Path], tmp_path: Path) -> None:
    for name in ("freedom", "unisrec"):
        for to in ("one", "two"):
            add_items(bundles[name], NEW, to=tmp_path / name / to)
        one, two = ((tmp_path / name / to / ITEM_VECTORS).read_bytes() for to in ("one", "two"))
        assert one == two
    add_items(bundles["freedom"], NEW.iloc[[1]], to=tmp_path / "turned")
    add_items(tmp_path / "turned", NEW.iloc[[0]])
    both, turned = Bundle(tmp_path / "freedom" / "one"), Bundle(tmp_path / "turned")
    for item in NEW["item_id"]:
        own, other = (bundle.item_vectors[bundle.item(item)] for bundle in (both, turned))
        np.testing.assert_allclose(own, other, rtol=1e-6)


def test_killed_at_any_moment_an_addition_leaves_the_old_or_the_new_bundle(
    bundles: dict[str, Path], tmp_path: Path, forks: Forks
) -> None:
    ended = forks.run("tests.bundle.crash_add:main", bundles["bpr"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    killed, after = json.loads(ended.stdout)
    assert killed > 8
    assert 0 < after < killed  # some kills came while the old folder was being removed


def test_a_generator_spells_new_items_by_a_code_of_their_own(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    same = pd.DataFrame({"item_id": ["a", "b"], "title": ["sweet plum and pear"] * 2})
    add_items(bundles["tiger"], same, to=tmp_path / "new")
    old, new = Bundle(bundles["tiger"]), Bundle(tmp_path / "new")
    codes = new.data.codes["items"].codes
    assert len(np.unique(codes, axis=0)) == len(codes) == N_ITEMS + 2
    assert np.array_equal(codes[:N_ITEMS], old.data.codes["items"].codes)
    assert codes[-2, :-1].tolist() == codes[-1, :-1].tolist()  # told apart by the last code alone
    found = new.recommend(FRUIT_BUYER, k=N_ITEMS + 2, exclude_seen=False)[0]["items"]
    assert {"a", "b"} <= {entry["item"] for entry in found}
    assert new.recommend(histories=[["a", "i2"]], k=3)[0]["items"]
    with pytest.raises(ConfigError, match="a bundle with item vectors"):
        Newcomers(new).vectors(NEW)
    many = pd.DataFrame({"item_id": list("cdefghijk"), "title": "sweet plum and pear"})
    with pytest.raises(FeatureError, match="a free code"):
        add_items(tmp_path / "new", many)
    assert Bundle(tmp_path / "new").manifest.counts.items == N_ITEMS + 2


def test_a_model_of_content_gives_new_items_its_own_vectors(bundles: dict[str, Path], tmp_path: Path) -> None:
    add_items(bundles["unisrec"], NEW, to=tmp_path / "new")
    old, new = Bundle(bundles["unisrec"]), Bundle(tmp_path / "new")
    newcomers = Newcomers(old)
    found = newcomers.vectors(NEW)
    np.testing.assert_allclose(new.item_vectors[N_ITEMS:], found, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new.item_vectors[:N_ITEMS], old.item_vectors)
    tables = {table.modality: table for table in newcomers.encode(NEW).values()}
    data = TrainingData(1, 2, Histories.from_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), 1), tables)
    alone = model_class("unisrec")(old.model.config, data).eval()
    alone.adaptor.load_state_dict(old.model.adaptor.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(found, alone.vectors().items, rtol=1e-5, atol=1e-6)
    with_new = new.history_vectors([[0, N_ITEMS], [0, N_ITEMS + 1], [0]])
    assert len(np.unique(with_new.round(4), axis=0)) == 3  # histories may hold new items


def test_a_new_item_is_looked_for_without_building_the_catalogue_anew(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Newcomers, "grow", None)
    newcomers = Newcomers(Bundle(bundles["unisrec"]))
    assert len(newcomers.vectors(NEW)) == len(newcomers.vectors(NEW)) == len(NEW)


def test_pictures_alone_texts_alone_and_neither(freedom: Path, tmp_path: Path) -> None:
    draw(tmp_path / "pictures" / "seen.png", 1, 99)
    table = pd.DataFrame({"item_id": ["seen", "read"], "title": [None, "ripe apple and sweet cherry"]})
    newcomers = Newcomers(Bundle(freedom))
    add_items(freedom, table, images=tmp_path / "pictures")
    bundle = Bundle(freedom)
    assert places(bundle, TOOL_BUYER)["seen"] < N_ITEMS / 2 + 1 <= places(bundle, FRUIT_BUYER)["seen"]
    assert places(bundle, FRUIT_BUYER)["read"] < N_ITEMS / 2 + 1 <= places(bundle, TOOL_BUYER)["read"]
    picture = bundle.picture(bundle.item("seen"))
    assert picture is not None
    assert picture[0] == (tmp_path / "pictures" / "seen.png").read_bytes()
    assert bundle.picture(bundle.item("read")) is None
    with pytest.raises(DataError, match="row 1"):
        newcomers.vectors(pd.DataFrame({"item_id": ["x"], "title": ["zzz"]}))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"item_id": ["i3", "x", "x"], "title": ["saw"] * 3}, r"row 1, 'i3': in the.*row 3, 'x': the same"),
        ({"item_id": ["x", "y"], "title": ["saw", "zzz"]}, "row 2, 'y': nothing to encode"),
        ({"item_id": ["x"], "titel": ["saw"]}, "did you mean 'title'"),
        ({"item_id": ["x"], "title": ["saw"], "price": ["dear"]}, "numbers in column 'price'"),
        ({"item_id": ["x", None], "title": ["saw"] * 2}, "an id in each row"),
        ({"item_id": ["x"], "title": ["saw"], "image": ["x.png"]}, "--images"),
        ({"title": ["saw"]}, "item_id"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_written(freedom: Path, table: dict[str, Any], reason: str) -> None:
    before = {file: file.read_bytes() for file in freedom.rglob("*") if file.is_file()}
    with pytest.raises(DataError, match=f"(?s){reason}"):
        add_items(freedom, pd.DataFrame(table))
    assert {file: file.read_bytes() for file in freedom.parent.rglob("*") if file.is_file()} == before


def test_pictures_that_cannot_be_read_are_named(freedom: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    table = pd.DataFrame({"item_id": ["a", "b"], "title": ["saw"] * 2, "image": ["broken.png", "gone.png"]})
    with pytest.raises(
        DataError, match=r"(?s)row 1, 'a': picture broken.png: unreadable; row 2, 'b': no picture"
    ):
        add_items(freedom, table, images=tmp_path / "pictures")


def test_replacing(freedom: Path) -> None:
    add_items(freedom, NEW)
    before = Bundle(freedom)
    given = pd.DataFrame(
        {"item_id": ["i3", "new-fruit", "x"], "title": ["ripe plum", "steel saw", "nail"], "price": 5}
    )
    done = add_items(freedom, given, replace=True)
    assert (done["added"], done["replaced"], done["items"]) == (1, 2, N_ITEMS + 3)
    after = Bundle(freedom)
    assert after.items["title"].iloc[3] == "ripe plum"
    assert after.items["price"].tolist()[:3] == [0, 1, 2]
    np.testing.assert_array_equal(after.item_vectors[3], before.item_vectors[3])  # what it has learned stays
    changed = after.item("new-fruit")
    assert not np.array_equal(after.item_vectors[changed], before.item_vectors[changed])
    with pytest.raises(FeatureError, match="items that it knew were replaced"):
        add_items(freedom, pd.DataFrame({"item_id": ["y"], "title": ["saw"]}))  # tfidf learned from them


class OtherEncoder:
    modality = "text"

    def __init__(self, options: EncoderOptions) -> None:
        self.options = options

    def describe(self) -> dict[str, Any]:
        return {"name": "other", "revision": "sha256:1"}

    def encode(self, inputs: list[Any]) -> Any:
        raise AssertionError("a wrong encoder was used")


def test_other_encoders_are_refused(bundles: dict[str, Path], freedom: Path) -> None:
    with pytest.raises(FeatureError, match=r"the encoder of text-tfidf: tfidf with (?s:.)*found: other"):
        add_items(freedom, NEW, encoders={"text": f"{__name__}:OtherEncoder"})
    with pytest.raises(ConfigError, match="encoders of"):
        add_items(freedom, NEW, encoders={"texts": "tfidf"})
    file = freedom / "manifest.json"
    manifest = json.loads(file.read_text())
    made = {"name": "minilm", "revision": "sha256:1", "pooling": "mean"}
    manifest["encodings"]["text-tfidf"]["encoder"] = made
    file.write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match="--encoder text=FOLDER_OR_NAME"):
        add_items(freedom, NEW)
    manifest["encodings"]["text-tfidf"]["encoder"] = "given"
    file.write_text(json.dumps(manifest))
    with pytest.raises(FeatureError, match="vectors_from_features"):
        add_items(freedom, NEW)


def test_an_encoder_that_has_moved_is_known_by_its_content(freedom: Path) -> None:
    from mmrec.bundle.encoding import open_encoder
    from mmrec.bundle.manifest import Encoding

    made = {"name": "first-home", "revision": "sha256:1"}
    encoding = Encoding(modality="text", encoder=made, fields=["title"], inputs=None, dtype="float32")
    items = Bundle(freedom).items
    assert open_encoder("text", encoding, f"{__name__}:OtherEncoder", items).modality == "text"
    commit = encoding.model_copy(update={"encoder": {**made, "revision": "0a1b"}})
    with pytest.raises(FeatureError, match="other with"):
        open_encoder("text", commit, f"{__name__}:OtherEncoder", items)


def test_bundles_that_cannot_take_items(bundles: dict[str, Path], stall: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knows only the items it was trained with"):
        add_items(bundles["ease"], NEW)
    run = Run(bundles["bpr"].with_name("run-bpr"))
    bare = export(run, tmp_path / "bare")
    with pytest.raises(ConfigError, match="--with-features"):
        add_items(bare, NEW)
    with pytest.raises(ConfigError, match="--features text="):
        export(run, tmp_path / "none", features=True)
    with pytest.raises(ConfigError, match="use method neighbours"):
        add_items(bundles["bpr"], NEW, method="model")
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["additions"] = [{"when": "", "mmrec": "", "items": N_ITEMS, "replaced": 0, "how": ""}]
    (bare / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="more of which were added"):
        Bundle(bare)


@pytest.mark.parametrize(("name", "index"), [("freedom", "faiss-hnsw"), ("unisrec", "exact")])
def test_an_index_in_the_bundle_finds_new_items(
    name: str, index: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    run = Run(bundles[name].with_name(f"run-{name}"))
    options = {"m": 8} if index == "faiss-hnsw" else {}
    folder = export(run, tmp_path / "bundle", index=index, index_options=options, features=name == "freedom")
    before = Bundle(folder).manifest.index
    add_items(folder, NEW.assign(kind=[["novelty"]] * 2, price=[99.0, None]))
    bundle = Bundle(folder)
    found = bundle.index().search(bundle.user_vectors([0]), 2, where="kind == 'novelty'").ids[0]
    assert sorted(found.tolist()) == [bundle.item("new-fruit"), bundle.item("new-tool")]
    queries = bundle.user_vectors(range(N_USERS))
    lists = [one.search(queries, 10).ids for one in (bundle.index(), bundle.index(exact=True))]
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(*(own.tolist() for own in lists), strict=True)]
    entry = bundle.manifest.index
    assert entry is not None and before is not None
    assert (entry.backend, entry.options) == (before.backend, before.options)
    assert entry.recall["recall@10"] == pytest.approx(np.mean(hits))
    assert f"recall@10 {np.mean(hits):.3f}" in (folder / "README.md").read_text()


def test_an_index_on_a_server_is_left_as_it_is(freedom: Path) -> None:
    file = freedom / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["index"] = {"backend": "qdrant", "options": {"uri": "http://127.0.0.1:1"}, "recall": {}}
    file.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="one on the server http"):
        add_items(freedom, NEW)


def test_a_ranker_that_does_not_know_new_items_is_left_out_only_when_asked_for(
    tmp_path: Path,
) -> None:
    stall = make_stall(tmp_path / "stall")
    split(stall, "leave-one-out", name="loo")
    rows = rows_from_dataset(
        stall, tmp_path / "rows", split="loo", negatives=1, history=4, show_progress=False
    )
    asked = ranker_config(rows, "fm", epochs=1) | {"features": {"text": "text-tfidf"}}
    ranker = train(asked, run=tmp_path / "ranker", show_progress=False)
    config = {"model": "bpr", "data": str(stall.path), "split": "loo", "train": {"epochs": 1}}
    run = train(config, run=tmp_path / "run", show_progress=False)
    folder = export(run, tmp_path / "bundle", ranker=ranker, features={"text": "text-tfidf"})
    with pytest.raises(ConfigError, match="--drop-ranker"):
        add_items(folder, NEW)
    assert Bundle(folder).ranker() is not None
    add_items(folder, NEW, drop_ranker=True)
    bundle = Bundle(folder)
    assert bundle.ranker() is None
    assert not (folder / "ranker").exists()
    assert "## Ranker" not in (folder / "README.md").read_text()
    with pytest.raises(ConfigError, match="a bundle with a ranker"):
        bundle.recommend(FRUIT_BUYER, rerank=True)


def test_features_of_new_items_are_kept(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Whoever explains a list by features, or adds more items later, finds rows for all items."""
    add_items(bundles["freedom"], NEW.iloc[[0]], to=tmp_path / "new")
    add_items(tmp_path / "new", NEW.iloc[[1]])
    old, new = Bundle(bundles["freedom"]), Bundle(tmp_path / "new")
    made = {table.modality: table for table in Newcomers(old).encode(NEW).values()}
    for modality, table in new.data.features.items():
        np.testing.assert_array_equal(table.vectors[:N_ITEMS], old.data.features[modality].vectors)
        np.testing.assert_array_equal(table.vectors[N_ITEMS:], made[modality].vectors)
        np.testing.assert_array_equal(table.present[N_ITEMS:], made[modality].present)
    by_model = [Newcomers(one, method="model").vectors(NEW) for one in (old, new)]
    np.testing.assert_array_equal(*by_model)


def rows(features: Any, chosen: Any) -> dict[str, FeatureTable]:
    return {
        modality: FeatureTable(table.name, modality, table.vectors[chosen], table.present[chosen])
        for modality, table in features.items()
    }


def without_last(data: TrainingData, n: int) -> TrainingData:
    return TrainingData(
        data.n_users, data.n_items - n, data.train, rows(data.features, slice(0, data.n_items - n))
    )


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("freedom", {"knn_k": 4}),
        ("freedom", {"knn_k": 50}),
        ("vbpr", {}),
        ("vbpr", {"standardize": True}),
        ("unisrec", {"experts": 2}),
        ("molar", {"experts": 2}),
    ],
)
def test_a_model_extends_itself_by_what_it_gives_items_that_nobody_had(
    name: str, params: dict[str, Any]
) -> None:
    world = planted_blocks(cold_items=3, missing=0.2)
    kind = model_class(name)
    config = kind.config_type(dim=8, **params)
    torch.manual_seed(0)
    small = kind(config, without_last(world.data, 3)).eval()
    found = small.extend(rows(world.data.features, world.cold))
    for place, item in enumerate(
        world.cold
    ):  # each alone in the catalogue: new items are nobody's neighbours
        n = int(world.cold[0]) + 1
        chosen = np.r_[np.arange(n - 1), item]
        data = TrainingData(world.data.n_users, n, world.data.train, rows(world.data.features, chosen))
        whole = kind(config, data).eval()
        state = small.state_dict()
        if name == "vbpr":
            whole.scales = small.scales
            whole.features.copy_(whole._join({m: t.tensor() for m, t in sorted(data.features.items())}))
        for key, own in whole.state_dict().items():
            if not own.dim():
                continue  # a count of epochs
            zeros = own.new_zeros(len(own) - len(state[key]), *own.shape[1:])
            own.copy_(torch.cat([state[key], zeros]))
        with torch.no_grad():
            torch.testing.assert_close(found[place], whole.vectors().items[-1], rtol=1e-5, atol=1e-6)


def test_new_items_in_two_layers_of_the_item_graph() -> None:
    world = planted_blocks(cold_items=2)
    kind = model_class("freedom")
    model = kind(kind.config_type(dim=4, knn_k=3, item_layers=2), without_last(world.data, 2)).eval()
    new = rows(world.data.features, world.cold)
    n = int(world.cold[0])
    table, known = model.item_graph.to_dense().double(), model.embeddings[model.n_users :].double()
    bordered = torch.zeros(n + 2, n + 2).double()
    bordered[:n, :n] = table
    for place in range(2):
        for modality, weight in model.weights.items():
            features = torch.from_numpy(np.asarray(world.data.features[modality].vectors)).double()
            cosines = torch.cosine_similarity(features[n + place], features[:n])
            bordered[n + place, cosines.topk(2).indices] += weight / 3
            bordered[n + place, n + place] += weight / 3
    expected = bordered @ bordered @ torch.cat([known, torch.zeros(2, 4).double()])
    torch.testing.assert_close(model.extend(new).double(), expected[n:], rtol=1e-4, atol=1e-6)


def test_method_model_asks_the_model(bundles: dict[str, Path]) -> None:
    bundle = Bundle(bundles["freedom"])
    by_model = Newcomers(bundle, method="model").vectors(NEW)
    assert by_model.shape == (2, 8)
    lengths = [
        np.linalg.norm(vectors, axis=1).mean() for vectors in (by_model, Newcomers(bundle).vectors(NEW))
    ]
    assert lengths[0] < lengths[1]
