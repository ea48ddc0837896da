"""What the engine answers is what the bundle says, by formulas written down a second time."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.items import add_items
from mmrec.bundle.newcomers import Newcomers
from mmrec.errors import ConfigError, DataError, FeatureError
from mmrec.serve.engine import Engine
from mmrec.serve.errors import NotFoundError, UnavailableError
from mmrec.serve.limits import Limits
from mmrec.serve.names import Names
from mmrec.serve.plain import to_json
from mmrec.serve.requests import RecommendRequest, ScoreRequest, SimilarRequest
from mmrec.train import train
from mmrec.where import parse
from tests.bundle.stall import NEW, make_stall
from tests.serve.conftest import MODELS

each_model = pytest.mark.parametrize("name", MODELS)
WHO = ["user-0003", "user-0000", "user-0041"]
WHERE = "price < 60 and category != 'mug'"


def listed(answer: dict[str, Any]) -> list[str]:
    return [entry["item"] for entry in answer["items"]]


def check_same(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    assert listed(answer) == listed(expected)
    scores, others = ([entry["score"] for entry in one["items"]] for one in (answer, expected))
    assert scores == pytest.approx(others, rel=1e-4, abs=1e-6)


@each_model
def test_lists_are_those_of_the_bundle(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    bundle, some = engine.bundle, engine.bundle.items["item_id"].tolist()[::3]
    history = ["item-0003", "item-0019", "item-0052"]
    for options in (
        {"k": 7}, {"k": 1000}, {"k": 4, "exclude_seen": False}, {"k": 5, "allow": some, "deny": some[:4]}, {"allow": []},
    ):  # fmt: skip
        for user in WHO:
            [expected] = bundle.recommend(user, **{"k": 10, **options})
            check_same(engine.recommend(RecommendRequest(user=user, **options)), expected)
        [expected] = bundle.recommend(histories=[history], **{"k": 10, **options})
        check_same(engine.recommend(RecommendRequest(history=history, **options)), expected)


@each_model
def test_filters_leave_what_they_say(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    permitted = engine.bundle.items["item_id"][parse(WHERE).mask(engine.bundle.attributes)].tolist()
    for allow in (None, [*permitted[:5], "item-0001"]):
        among = permitted if allow is None else [item for item in allow if item in permitted]
        [expected] = engine.bundle.recommend(WHO[0], k=60, allow=among)
        answer = engine.recommend(RecommendRequest(user=WHO[0], k=60, where=WHERE, allow=allow))
        check_same(answer, expected)
        assert answer["items"]


@each_model
def test_many_at_once_are_one_by_one(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    requests = [
        RecommendRequest(user=user, k=6, where=WHERE, explain=True) for user in [*WHO, "nobody", WHO[0]]
    ]
    if engine.index is not None:  # of one shape although they deny different items
        history = RecommendRequest(history=["item-0003", "item-0007"], k=6, where=WHERE, deny=["item-0000"])
        requests += [history, RecommendRequest(history=[], k=6, where=WHERE)]
    assert len({engine.shape(request) for request in requests}) == 1
    answers = engine.recommend_all(requests)
    assert isinstance(answers[3], NotFoundError)
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, dict):
            check_same(answer, engine.recommend(request))
            assert [entry.get("why") for entry in answer["items"]] == [
                entry.get("why") for entry in engine.recommend(request)["items"]
            ]
    if engine.index is not None:
        assert isinstance(answers[-1], DataError)


@pytest.mark.parametrize("name", ["lightgcn", "unisrec"])
def test_reasons_are_cosines(name: str, engines: dict[str, Engine]) -> None:
    engine = engines[name]
    bundle, vectors = engine.bundle, engine.bundle.item_vectors.astype(np.float64)

    def cosine(matrix: np.ndarray[Any, Any], a: int, b: int) -> float:
        product, lengths = matrix[a] @ matrix[b], np.linalg.norm(matrix[a]) * np.linalg.norm(matrix[b])
        return float(product / lengths) if lengths else 0.0

    seen = bundle.seen(bundle.user(WHO[0])).tolist()
    answer = engine.recommend(RecommendRequest(user=WHO[0], k=20, explain=True))
    shares_seen = 0
    for entry in answer["items"]:
        item = bundle.item(entry["item"])
        cosines = {other: cosine(vectors, item, other) for other in seen}
        near = sorted(seen, key=lambda other: (-round(cosines[other], 6), other))[:3]
        assert listed({"items": entry["why"]["nearest"]}) == [f"item-{other:04d}" for other in near]
        for one, other in zip(entry["why"]["nearest"], near, strict=True):
            assert one["similarity"] == pytest.approx(cosine(vectors, item, other), abs=1e-5)
        likeness = {}
        for modality, table in bundle.data.features.items():
            if not table.present[item]:
                likeness[modality] = 0.0
                continue
            matrix = table.vectors.astype(np.float64)
            values = [cosine(matrix, item, other) for other in near if table.present[other]]
            likeness[modality] = max(0.0, sum(values) / len(values)) if values else 0.0
        total = sum(likeness.values())
        if total:
            expected = {modality: value / total for modality, value in likeness.items()}
            assert entry["why"]["modalities"] == pytest.approx(expected, abs=1e-5)
            shares_seen += 1
        else:
            assert "modalities" not in entry["why"]
    assert shares_seen == (0 if name == "lightgcn" else len(answer["items"]))


def test_similar_items_have_the_largest_cosines(engine: Engine) -> None:
    vectors = engine.bundle.item_vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)  # the cold ones have none
    cosines = unit @ unit[7]
    cosines[7] = -np.inf
    answer = engine.similar(SimilarRequest(item="item-0007", k=9, attributes=True))
    best = np.argsort(-cosines, kind="stable")[:9]
    assert listed(answer) == [f"item-{item:04d}" for item in best]
    assert [entry["score"] for entry in answer["items"]] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    assert answer["items"][0]["attributes"]["price"] == engine.bundle.items["price"].iloc[best[0]]
    filtered = engine.similar(SimilarRequest(item="item-0007", k=60, where=WHERE))
    mask = parse(WHERE).mask(engine.bundle.attributes)
    assert listed(filtered) == [
        f"item-{item:04d}" for item in np.argsort(-cosines, kind="stable") if mask[item] and item != 7
    ]


def encode(width: int, height: int, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def stall(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of vectors to which new items can be added, some of which were."""
    folder = tmp_path_factory.mktemp("stall")
    dataset = make_stall(folder / "stall")
    config = {"model": "bpr", "data": str(dataset.path), "params": {"dim": 8}, "train": {"epochs": 2}}
    run = train(config, run=folder / "run", show_progress=False)
    features = {"text": "text-tfidf", "image": "image-histogram"}
    bundle = export(run, folder / "bundle", features=features, index="exact")
    add_items(bundle, NEW)
    return bundle


def test_new_items_are_placed_by_the_encoders(stall: Path) -> None:
    bundle = Bundle(stall)
    engine = Engine(bundle, encoders={"text": "tfidf"})
    assert engine.info()["new_items"] == ["image", "text"]
    unit = bundle.item_vectors / np.linalg.norm(bundle.item_vectors, axis=1, keepdims=True)
    title, png = "ripe sweet plum", encode(8, 8)
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    for request, table, pictures in (
        (SimilarRequest(text=title, k=6), {"title": [title]}, [None]),
        (SimilarRequest(image=png, k=6), {"title": [None]}, [picture]),
        (
            SimilarRequest(image=f"data:image/png;base64,{png}", text=title, k=6),
            {"title": [title]},
            [picture],
        ),
    ):
        vector = Newcomers(bundle).vectors(pd.DataFrame(table), pictures)[0]
        cosines = unit @ vector / np.linalg.norm(vector)
        best = np.argsort(-cosines, kind="stable")[:6]
        answer = engine.similar(request)
        assert [entry["score"] for entry in answer["items"]] == pytest.approx(
            cosines[best].tolist(), abs=1e-5
        )
        assert set(listed(answer)) == set(bundle.items["item_id"].iloc[best])
    with pytest.raises(DataError, match="other characters"):
        engine.similar(SimilarRequest(image="***"))
    with pytest.raises(DataError, match="a picture"):
        engine.similar(SimilarRequest(image=base64.b64encode(b"no picture").decode()))
    with pytest.raises(DataError, match="nothing to encode"):
        engine.similar(SimilarRequest(text="zzz"))


def test_items_added_later_are_explained_by_their_features(stall: Path) -> None:
    engine = Engine(Bundle(stall))
    asked = RecommendRequest(history=["i0", "new-fruit"], allow=["new-tool", "i2"], explain=True)
    why = {entry["item"]: entry["why"] for entry in engine.recommend(asked)["items"]}
    assert {near["item"] for near in why["new-tool"]["nearest"]} == {"i0", "new-fruit"}
    assert why["i2"]["modalities"]["text"] > 0


def test_encoders_that_do_not_fit_are_found_at_the_start(stall: Path, engine: Engine) -> None:
    with pytest.raises(FeatureError, match="the encoder of text-tfidf"):
        Engine(Bundle(stall), encoders={"text": "words"})
    with pytest.raises(ConfigError, match="--with-features"):
        Engine(engine.bundle, encoders={"text": "tfidf"})


def test_new_items_without_encoders(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="--encoder image=NAME_OR_PATH"):
        engine.similar(SimilarRequest(image="AAAA"))


def test_single_things(engine: Engine) -> None:
    bundle = engine.bundle
    answer = engine.item("item-0003")
    assert answer["attributes"] == {
        name: bundle.items[name].iloc[3] for name in ("title", "description", "category", "price")
    }
    shown = [item for item in range(60) if bundle.picture(item) is not None]
    assert [item for item in range(60) if engine.item(f"item-{item:04d}")["image"]] == shown
    assert 0 < len(shown) < 60
    assert engine.picture(f"item-{shown[0]:04d}") == bundle.picture(shown[0])
    lacking = next(item for item in range(60) if item not in shown)
    with pytest.raises(NotFoundError, match="a picture"):
        engine.picture(f"item-{lacking:04d}")
    assert engine.user(WHO[0])["history"] == [f"item-{item:04d}" for item in bundle.seen(bundle.user(WHO[0]))]
    info = engine.info()
    assert (info["items"], info["users"], info["attributes"]["price"]) == (60, 150, "number")
    assert json.loads(json.dumps(info, allow_nan=False)) == info


def test_names_are_found_by_a_part_of_them(engine: Engine) -> None:
    titles = engine.bundle.titles
    for query in ("oak", "OAK s", "item-001", "0", "é", "", " ", "\0", "no such thing"):
        wanted = " ".join(query.replace("\0", " ").split()).lower()
        expected = [
            f"item-{row:04d}"
            for row, title in enumerate(titles)
            if wanted in title.lower() or wanted in f"item-{row:04d}"
        ]
        found = engine.search(query, "item", 100)["results"]
        assert [one["id"] for one in found] == expected
        assert [one["id"] for one in engine.search(query, "item", 2)["results"]] == expected[:2]
    both = engine.search("00", None, 70)["results"]
    assert [one["kind"] for one in both] == ["item"] * 60 + ["user"] * 10
    assert Names([]).find("", 9) == []
    odd = Names(["a\nb", "İ", "c"], ["one", "Straße", "x\0y"])
    assert [odd.find(query, 9) for query in ("b", "STRASSE", "A B", "y", "b\none")] == [
        [0],
        [1],
        [0],
        [2],
        [],
    ]


@pytest.mark.parametrize(
    ("request_", "error", "reason"),
    [
        (RecommendRequest(), ConfigError, "user or history"),
        (RecommendRequest(user="user-0003", history=["item-0003"]), ConfigError, "user and history"),
        (RecommendRequest(user="nobody"), NotFoundError, "'nobody'"),
        (RecommendRequest(history=["nothing"]), NotFoundError, "'nothing'"),
        (RecommendRequest(user="user-0003", deny=["nothing"]), NotFoundError, "'nothing'"),
        (RecommendRequest(user="user-0003", allow=["nothing"]), NotFoundError, "'nothing'"),
        (RecommendRequest(history=[]), DataError, "an empty history"),
        (RecommendRequest(user="user-0003", k=101), ConfigError, "k of at most 100"),
        (RecommendRequest(user="user-0003", allow=["item-0003"] * 21), ConfigError, "allow of at most 20"),
        (RecommendRequest(history=["item-0003"] * 11), ConfigError, "history of at most 10"),
        (RecommendRequest(user="user-0003", where="price <"), ConfigError, "end"),
        (RecommendRequest(user="user-0003", where="__class__ == 1"), ConfigError, "attribute"),
        (
            RecommendRequest(user="user-0003", where="price == 1 or " * 10),
            ConfigError,
            "where of at most 100",
        ),
        (SimilarRequest(), ConfigError, "neither"),
        (SimilarRequest(item="item-0003", text="x"), ConfigError, "give one"),
        (SimilarRequest(item="nothing"), NotFoundError, "'nothing'"),
        (ScoreRequest(user="user-0003", items=["item-0003"]), ConfigError, "a bundle with a ranker"),
        (ScoreRequest(user="user-0003", items=["item-0003"] * 6), ConfigError, "items of at most 5"),
    ],
)
def test_what_is_asked_wrongly_is_said(
    engine: Engine, request_: Any, error: type[Exception], reason: str
) -> None:
    own = object.__new__(Engine)
    own.__dict__.update(engine.__dict__, limits=Limits(k=100, ids=20, history=10, where=100, candidates=5))
    ask = {RecommendRequest: own.recommend, SimilarRequest: own.similar, ScoreRequest: own.score}
    with pytest.raises(error, match=reason):
        ask[type(request_)](request_)


def test_a_user_without_items_is_told_so(engine: Engine) -> None:
    own = object.__new__(Engine)
    bundle = SimpleNamespace(seen=lambda _: np.zeros(0, dtype=np.int64))
    own.__dict__.update(engine.__dict__, bundle=bundle)
    with pytest.raises(DataError, match="'user-0003' without any"):
        own.recommend(RecommendRequest(user="user-0003"))


def test_an_index_that_fails_is_unavailable(engine: Engine) -> None:
    class Down:
        backend = "qdrant"

        def search(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("refused")

    own = object.__new__(Engine)
    own.__dict__.update(engine.__dict__, index=Down())
    with pytest.raises(UnavailableError, match="ConnectionError"):
        own.recommend(RecommendRequest(user="user-0003"))


def test_cells_become_json() -> None:
    when = pd.Timestamp("2024-05-31")
    cells = [np.float32(1.5), np.nan, np.inf, np.int64(3), None, pd.NA, pd.NaT, np.bool_(True), "x", when]
    expected = [1.5, None, None, 3, None, None, None, True, "x", "2024-05-31T00:00:00"]
    assert to_json(np.array(cells, dtype=object)) == expected
    assert to_json([["a"], (1, np.array([2.5]))]) == [["a"], [1, [2.5]]]
