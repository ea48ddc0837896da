"""RecBole's models in our training loop; skipped where RecBole is not installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from mmrec.config import load_config
from mmrec.data.batches import PairBatch, SequenceBatch, UserBatch
from mmrec.data.dataset import Dataset, TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import ConfigError
from mmrec.evaluate import rank_and_measure
from mmrec.files import read_json
from mmrec.models.contracts import scoring
from mmrec.runs import Run, load_tensors, restore, save_tensors
from mmrec.train import train as run_training
from tests.dense import assert_close
from tests.forks import Forks
from tests.learning import Learned, all_scores, batches, begin_epoch, new_model, step, train
from tests.small_shop import config_of
from tests.worlds import PlantedWorld, planted_blocks

needs_recbole = pytest.mark.skipif(
    importlib.util.find_spec("recbole") is None, reason="RecBole is absent: pip install 'mmrec[recbole]'"
)
pytestmark = needs_recbole
# One of each way to train and to score.
KINDS = {
    "BPR": "pairs",  # pairwise
    "LightGCN": "pairs",
    "SGL": "pairs",  # a new graph each epoch
    "NeuMF": "pairs",  # labelled rows
    "DeepFM": "pairs",  # labelled rows, scored in blocks
    "MultiVAE": "users",  # counts its steps
    "DiffRec": "users",  # remembers its losses
    "SASRec": "sequences",
    "DIN": "sequence-pairs",  # labelled rows with histories, scored in blocks
    "EASE": None,
}
# Their transformers and their histories are made for more than twenty items.
SMALL: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_size": 32, "inner_size": 32, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 10},
    "DIN": {"MAX_ITEM_LIST_LENGTH": 10},
}
TRAINED = [name for name, kind in KINDS.items() if kind is not None]


def name_of(short: str) -> str:
    return f"recbole:{short}"


def new_small(short: str, data: TrainingData, seed: int = 0) -> Any:
    return new_model(name_of(short), data, seed=seed, **SMALL.get(short, {}))


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted_blocks()


@pytest.fixture(scope="module")
def learned(world: PlantedWorld) -> Any:
    made: dict[str, Learned] = {}

    def get(short: str) -> Learned:
        if short not in made:
            made[short] = train(new_small(short, world.data), world.data)
        return made[short]

    return get


@pytest.mark.parametrize("short", KINDS)
def test_the_withheld_item_ranks_first(short: str, learned: Any, world: PlantedWorld) -> None:
    trained = learned(short)
    assert trained.model.batches == KINDS[short]
    assert not trained.losses or trained.losses[-1] < trained.losses[0]
    scores = all_scores(trained.model, world.data)
    scores[torch.from_numpy(world.data.train.users), torch.from_numpy(world.data.train.items)] = -torch.inf
    assert (scores.argmax(1).numpy() == world.withheld).mean() > 0.9


@pytest.mark.parametrize("short", KINDS)
def test_scores_of_a_block_are_those_of_each_user(short: str, learned: Any, world: PlantedWorld) -> None:
    model, data = learned(short).model, world.data
    together = all_scores(model, data)
    assert together.shape == (data.n_users, data.n_items)
    score = scoring(model, data.train)
    assert_close(score(np.array([5])), together[5:6], 1e-5)
    score(np.arange(data.n_users)).fill_(-torch.inf)  # the caller may overwrite them
    assert torch.equal(all_scores(model, data), together)


@pytest.mark.parametrize("short", KINDS)
def test_saved_and_loaded_scores_are_the_same(
    short: str, learned: Any, world: PlantedWorld, tmp_path: Path
) -> None:
    model = learned(short).model
    save_tensors(tmp_path / "model", model.state_dict(), {})
    fresh = new_small(short, world.data)
    restore(fresh, load_tensors(tmp_path / "model")[0], tmp_path / "model")
    assert torch.equal(all_scores(fresh, world.data), all_scores(model, world.data))


@pytest.mark.parametrize("short", TRAINED)
def test_same_seed_same_bits(short: str, world: PlantedWorld) -> None:
    data = world.data
    one, two, other = (train(new_small(short, data, seed=s), data, epochs=1, seed=s) for s in (4, 4, 5))
    assert one.losses == two.losses
    assert torch.equal(all_scores(one.model, data), all_scores(two.model, data))
    assert one.losses != other.losses


@pytest.mark.parametrize("short", TRAINED)
def test_loss_terms_are_named_scalars(short: str, world: PlantedWorld) -> None:
    model = new_model(name_of(short), world.data)
    begin_epoch(model, 0)
    terms = model.loss(next(iter(batches(model, world.data, 16, 0))))
    assert terms and all(term.shape == () and torch.isfinite(term) for term in terms.values())


def test_same_bits_on_two_threads(world: PlantedWorld) -> None:
    rng = np.random.default_rng(0)
    pairs = np.unique(np.stack([rng.zipf(1.3, 20_000) % 900, rng.zipf(1.2, 20_000) % 700], 1), axis=0)
    wide = TrainingData(900, 700, Histories.from_pairs(pairs[:, 0], pairs[:, 1], 900), {})
    torch.set_num_threads(2)  # conftest.py puts the number back
    results = []
    for _ in range(2):
        model = new_model("recbole:LightGCN", wide)
        begin_epoch(model, 0)
        for batch in list(batches(model, wide, 2048, 0))[:2]:
            step(model, torch.optim.Adam(model.parameters()), batch)
        results.append(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
    assert torch.equal(*results)


# --- Equal to our own models


def copy_weights(ours: Any, theirs: Any) -> None:
    """Our table into theirs, whose row 0 is padding."""
    n_users = ours.n_users
    with torch.no_grad():
        theirs.inner.user_embedding.weight[1:] = ours.embeddings[:n_users]
        theirs.inner.item_embedding.weight[1:] = ours.embeddings[n_users:]


def compare(ours: Any, theirs: Any, data: TrainingData, pad: slice = slice(1, None)) -> None:
    copy_weights(ours, theirs)
    batch = PairBatch(torch.tensor([0, 3, 3, 7]), torch.tensor([2, 1, 5, 3]), torch.tensor([3, 4, 2, 8]))
    losses = []
    for model in (ours, theirs):
        loss = torch.stack(list(model.loss(batch).values())).sum()
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    gradient = torch.cat(
        [theirs.inner.user_embedding.weight.grad[pad], theirs.inner.item_embedding.weight.grad[pad]]
    )
    assert_close(ours.embeddings.grad, gradient, 1e-5)
    assert_close(all_scores(theirs, data), all_scores(ours, data), 1e-5)


def test_bpr_is_our_bpr(world: PlantedWorld) -> None:
    compare(
        new_model("bpr", world.data, dim=8, reg=0.0),
        new_model("recbole:BPR", world.data, embedding_size=8),
        world.data,
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_is_our_lightgcn(layers: int, world: PlantedWorld) -> None:
    compare(
        new_model("lightgcn", world.data, dim=8, layers=layers, reg=0.01, penalty="norm"),
        new_model("recbole:LightGCN", world.data, embedding_size=8, n_layers=layers, reg_weight=0.01),
        world.data,
    )


def test_metrics_are_those_of_recboles_evaluator() -> None:
    from recbole.evaluator import Collector, Evaluator

    from mmrec.interop import recbole

    rng = np.random.default_rng(3)
    n_users, n_items, ks = 40, 60, [1, 5, 20]
    scores = torch.from_numpy(rng.permuted(np.tile(np.arange(n_items), (n_users, 1)), axis=1)).float()
    drawn = [rng.permutation(n_items)[: rng.integers(2, 40)] for _ in range(n_users)]
    train_items = Histories.from_pairs(*pairs_of([row[: len(row) // 2] for row in drawn]), n_users)
    held = Histories.from_pairs(*pairs_of([row[len(row) // 2 :] for row in drawn]), n_users)
    ours = rank_and_measure(lambda ids: scores[ids].clone(), train_items, held, n_items, ks).metrics

    names = {
        "recall": "Recall",
        "ndcg": "NDCG",
        "hit": "Hit",
        "mrr": "MRR",
        "map": "MAP",
        "precision": "Precision",
    }
    kind = recbole._find("BPR")
    settings = recbole._settings_class()(
        model=kind,
        dataset="mmrec",
        config_dict={**recbole.FIXED, "metrics": [*names.values()], "topk": ks, "metric_decimal_place": 12},
    )
    padded = torch.cat([torch.full((n_users, 1), -torch.inf), scores], 1)
    padded[torch.from_numpy(train_items.users), torch.from_numpy(train_items.items) + 1] = -torch.inf
    with recbole._inside():
        collector = Collector(settings)
        collector.eval_batch_collect(
            padded, None, torch.from_numpy(held.users), torch.from_numpy(held.items) + 1
        )
        theirs = Evaluator(settings).evaluate(collector.get_data_struct())
    for name in names:
        for k in ks:
            assert ours[f"{name}@{k}"] == pytest.approx(float(theirs[f"{name}@{k}"]), abs=1e-9), (name, k)


def pairs_of(rows: list[Any]) -> tuple[Any, Any]:
    return np.repeat(np.arange(len(rows)), [len(row) for row in rows]), np.concatenate(rows).astype(np.int64)


# --- What RecBole is handed


class Recorded(torch.nn.Module):
    """In the place of RecBole's model: keeps what the loss is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def calculate_loss(self, interaction: Any) -> Tensor:
        self.seen = dict(interaction.interaction)
        return self.weight


def handed(short: str, batch: Any, data: TrainingData, **params: Any) -> dict[str, list[Any]]:
    model = new_model(name_of(short), data, **params)
    model.inner = Recorded()
    model.counters = []
    model.loss(batch)
    return {field: values.tolist() for field, values in model.inner.seen.items()}


def test_rows_of_each_kind_of_batch(world: PlantedWorld) -> None:
    data = world.data
    pairs = PairBatch(torch.tensor([0, 4]), torch.tensor([2, 6]), torch.tensor([3, 0]))
    assert handed("BPR", pairs, data) == {"user_id": [1, 5], "item_id": [3, 7], "neg_item_id": [4, 1]}
    assert handed("DeepFM", pairs, data) == {
        "user_id": [1, 5, 1, 5],
        "item_id": [3, 7, 4, 1],
        "label": [1, 1, 0, 0],
    }
    users = UserBatch(torch.tensor([2, 9]), torch.tensor([0]), torch.tensor([4]))
    assert handed("MultiVAE", users, data) == {"user_id": [3, 10]}
    shown = torch.tensor([[4, 2, -1], [0, -1, -1]])
    batch = SequenceBatch(torch.tensor([1, 2]), shown, torch.tensor([2, 1]), torch.tensor([6, 8]))
    sequence = {"user_id": [2, 3], "item_id_list": [[5, 3, 0], [1, 0, 0]], "item_length": [2, 1]}
    assert handed("SASRec", batch, data) == {**sequence, "item_id": [7, 9]}
    ranked = SequenceBatch(batch.users, shown, batch.lengths, batch.targets, torch.tensor([0, 3]))
    assert handed("SASRec", ranked, data, loss_type="BPR") == {
        **sequence,
        "item_id": [7, 9],
        "neg_item_id": [1, 4],
    }


def test_the_loss_decides_whether_sequences_need_negatives(world: PlantedWorld) -> None:
    assert new_model("recbole:GRU4Rec", world.data).batches == "sequences"
    assert new_model("recbole:GRU4Rec", world.data, loss_type="BPR").batches == "sequence-pairs"


def test_sequences_are_scored_in_the_order_of_time(world: PlantedWorld) -> None:
    """The same pairs in another order of time give other scores, whatever the order of the histories."""
    data = world.data
    back = Histories(data.train.offsets, np.concatenate([data.train[u][::-1] for u in range(data.n_users)]))
    later = TrainingData(data.n_users, data.n_items, data.train, {}, lambda: back)
    plain, turned = (new_model("recbole:SASRec", made) for made in (data, later))
    assert not torch.allclose(all_scores(plain, data), all_scores(turned, later))
    reversed_file = TrainingData(data.n_users, data.n_items, back, {}, lambda: data.train)
    assert torch.equal(
        all_scores(new_model("recbole:SASRec", reversed_file), reversed_file), all_scores(plain, data)
    )


def test_a_user_without_history_gets_finite_scores(world: PlantedWorld) -> None:
    data = world.data
    offsets = np.append(data.train.offsets, data.train.offsets[-1])
    longer = TrainingData(data.n_users + 1, data.n_items, Histories(offsets, data.train.items), {})
    for short in ("BPR", "SASRec", "DIN"):
        assert torch.isfinite(all_scores(new_model(name_of(short), longer), longer)).all()


# --- Names and parameters


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "recbole:LightGNC"}, "did you mean 'LightGCN'"),
        ({"model": "recbole:bpr"}, "did you mean 'BPR'"),
        ({"model": "recbole:KGAT"}, "knowledge graph"),
        ({"model": "recbole:SASRecF"}, "attributes of items"),
        ({"model": "recbole:RecVAE"}, "trainer of its own"),
        ({"model": "recbole:XGBoost"}, "decision trees"),
        ({"model": "recbole:BPR", "params": {"embedding_sizes": 8}}, "did you mean 'embedding_size'"),
        ({"model": "recbole:SASRec", "params": {"hidden_size": "many"}}, "hidden_size"),
        ({"model": "recbole:BPR", "params": {"learning_rate": 0.1}}, "a known key"),
    ],
)
def test_wrong_names_and_params(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"data": "unused", **config})


def test_what_recbole_refuses_is_a_config_error(world: PlantedWorld) -> None:
    with pytest.raises(ConfigError, match=r"RecBole's SASRec accepts\n.*loss_type"):
        new_model("recbole:SASRec", world.data, loss_type="hinge")


def test_params_reach_recbole_and_have_its_defaults_and_words(world: PlantedWorld) -> None:
    from mmrec.registry import model_class

    model = new_model("recbole:SASRec", world.data, hidden_size=16, inner_size=32, MAX_ITEM_LIST_LENGTH=7)
    assert model.inner.item_embedding.weight.shape == (world.data.n_items + 1, 16)
    assert model.inner.position_embedding.weight.shape == (7, 16)
    fields = model_class("recbole:SASRec").config_type.model_fields
    assert fields["hidden_act"].default == "gelu" and fields["layer_norm_eps"].default == 1e-12
    assert fields["n_layers"].description == "The number of transformer layers in transformer encoder."
    text = "__import__('os').getcwd()"  # RecBole would have evaluated it
    with pytest.raises(ConfigError, match=r"KeyError: .*__import__"):
        new_model("recbole:SASRec", world.data, hidden_act=text)


def test_every_model_of_recbole_is_either_declared_or_refused() -> None:
    from mmrec.interop.recbole import FAMILIES, REFUSED, model_class, model_names

    names = model_names()
    assert len(names) > 80 and set(REFUSED) <= names.keys()
    assert {module.split(".")[2].removesuffix("_recommender") for module in names.values()} == set(FAMILIES)
    for short, module in names.items():
        if short in REFUSED or "knowledge" in module or "exlib" in module:
            with pytest.raises(ConfigError, match="choose another one"):
                model_class(name_of(short))
        else:
            kind = model_class(name_of(short))
            assert kind.config_type() and all(
                field.description for field in kind.config_type.model_fields.values()
            )


# --- Nothing leaks


def test_the_process_is_left_as_it_was(
    world: PlantedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.sparse import dok_matrix

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mmrec", "--embedding_size=3", "--seed=1", "words"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    root = logging.getLogger()

    def state() -> tuple[Any, ...]:
        resolvers = {key: len(rules) for key, rules in yaml.FullLoader.yaml_implicit_resolvers.items()}
        numbers = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        return (
            set(vars(np)),
            resolvers,
            numbers,
            root.handlers[:],
            root.level,
            os.environ["CUDA_VISIBLE_DEVICES"],
        )

    new_model("recbole:BPR", world.data)  # imports
    before, names = state(), {name: getattr(np, name) for name in ("bool", "long", "float64")}
    for short in ("LightGCN", "SGL", "DeepFM"):
        model = train(new_model(name_of(short), world.data), world.data, epochs=1).model
        all_scores(model, world.data)
    with pytest.raises(ConfigError):
        new_model("recbole:SASRec", world.data, n_heads=3)
    assert state() == before
    assert all(getattr(np, name) is value for name, value in names.items())
    assert not hasattr(dok_matrix, "_update")
    assert model.inner.embedding_size != 3
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_recbole_is_imported_unasked(forks: Forks) -> None:
    code = (
        "import sys, mmrec, mmrec.registry as r, mmrec.config; r.describe_models(); "
        "there = [m for m in sys.modules if m.startswith(('recbole', 'ray'))]; assert not there, there"
    )
    ended = forks.run("tests.import_orders:main", code)
    assert json.loads(ended.stdout) == [[]], ended.stderr


def test_importing_its_models_does_not_make_every_backward_pass_look_for_nan(forks: Forks) -> None:
    code = (
        "import sys, torch, mmrec.registry as r; r.model_class('recbole:SASRec'); "
        "assert 'recbole.model.sequential_recommender.sine' in sys.modules; assert not torch.is_anomaly_enabled()"
    )
    ended = forks.run("tests.import_orders:main", code)
    assert json.loads(ended.stdout) == [[]], ended.stderr


# --- Through the training command


@pytest.mark.parametrize(
    ("short", "params", "batch_size"),
    [("MultiVAE", {}, 64), ("SASRec", SMALL["SASRec"], 256)],
)
def test_interrupted_and_resumed_is_the_same_run(
    short: str,
    params: dict[str, Any],
    batch_size: int,
    small_shop: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmrec.interop.recbole import model_class

    config = config_of(
        small_shop,
        name_of(short),
        params=params,
        epochs=2,
        batch_size=batch_size,
        checkpoint_seconds=0.0,
        lr=0.01,
    )
    whole = run_training(config, run=tmp_path / "whole", show_progress=False)
    kind, calls = model_class(name_of(short)), 0
    plain = kind.loss

    def failing(self: Any, batch: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise RuntimeError("power cut")
        return plain(self, batch)

    monkeypatch.setattr(kind, "loss", failing)
    with pytest.raises(RuntimeError, match="power cut"):
        run_training(config, run=tmp_path / "cut", show_progress=False)
    monkeypatch.setattr(kind, "loss", plain)
    resumed = run_training(tmp_path / "cut", resume=True, show_progress=False)
    assert resumed.manifest["checkpoint_sha256"] == whole.manifest["checkpoint_sha256"]
    metrics = read_json(Run(tmp_path / "cut").path / "valid.json")["metrics"]
    assert metrics == read_json(whole.path / "valid.json")["metrics"]
