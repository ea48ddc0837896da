"""Metrics against hand-computed tables, a plain Python twin, torch-geometric and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.data.histories import Histories
from mmrec.errors import ConfigError
from mmrec.metrics import (
    METRICS,
    USER_METRICS,
    catalogue_metrics,
    find_hits,
    parse_metric,
    user_metrics,
)

KS = (1, 3, 5)


def histories(rows: list[list[int]]) -> Histories:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Histories.from_pairs(users, np.array([i for row in rows for i in row], dtype=np.int64), len(rows))


def world(
    seed: int, n_users: int = 60, n_items: int = 30, depth: int = 12
) -> tuple[np.ndarray, list[list[int]]]:
    """Full random lists, and 1 to 8 held-out items per user."""
    generator = np.random.default_rng(seed)
    ranked = np.argsort(generator.random((n_users, n_items)), axis=1)[:, :depth]
    sizes = generator.integers(1, 9, n_users)
    return ranked, [generator.choice(n_items, size, replace=False).tolist() for size in sizes]


def evaluate(ranked: np.ndarray, held: list[list[int]], ks: tuple[int, ...] = KS) -> dict[str, np.ndarray]:
    held_out = histories(held)
    return user_metrics(find_hits(ranked, held_out), held_out.counts, ks)


def twin(ranked: list[int], held: list[int], k: int) -> dict[str, float]:
    """One user in plain Python, straight from the definitions."""
    hits = [item in held for item in ranked[:k]]
    best = min(k, len(held))
    return {
        "recall": sum(hits) / len(held),
        "precision": sum(hits) / k,
        "hit": float(any(hits)),
        "mrr": max((1 / (j + 1) for j, hit in enumerate(hits) if hit), default=0.0),
        "map": sum(sum(hits[: j + 1]) / (j + 1) for j, hit in enumerate(hits) if hit) / best,
        "ndcg": sum(1 / math.log2(j + 2) for j, hit in enumerate(hits) if hit)
        / sum(1 / math.log2(j + 2) for j in range(best)),
    }


def test_hand_computed_table() -> None:
    ranked = np.array([[4, 2, 9, 7, 1], [3, 8, 5, 0, 6], [1, 2, 3, 4, 5]])
    values = evaluate(ranked, [[2, 7, 8], [6], [9]])
    # user 0: hits at ranks 2 and 4 of |T| = 3; user 1: the only held-out item at rank 5; user 2: no hit
    expected = {
        "recall@1": [0, 0, 0],
        "recall@3": [1 / 3, 0, 0],
        "recall@5": [2 / 3, 1, 0],
        "precision@5": [2 / 5, 1 / 5, 0],
        "hit@3": [1, 0, 0],
        "hit@5": [1, 1, 0],
        "mrr@5": [1 / 2, 1 / 5, 0],
        "map@3": [(1 / 2) / 3, 0, 0],
        "map@5": [(1 / 2 + 2 / 4) / 3, 1 / 5, 0],
        # 1/log2(3) = 0.6309298, 1/log2(5) = 0.4306766, 1/log2(6) = 0.3868528; ideal of 3: 2.1309298
        "ndcg@3": [0.6309298 / 2.1309298, 0, 0],
        "ndcg@5": [(0.6309298 + 0.4306766) / 2.1309298, 0.3868528, 0],
    }
    for name, column in expected.items():
        assert values[name] == pytest.approx(column, abs=1e-7), name


@pytest.mark.parametrize("seed", range(3))
def test_twin_in_plain_python(seed: int) -> None:
    ranked, held = world(seed)
    ranked[::4, 7:] = -1  # lists that ran out of candidates
    ks = (1, 2, 5, 10, 12)
    values = evaluate(ranked, held, ks)
    assert set(values) == {f"{name}@{k}" for name in USER_METRICS for k in ks}
    for user in range(len(held)):
        for k in ks:
            for name, value in twin(ranked[user].tolist(), held[user], k).items():
                assert values[f"{name}@{k}"][user] == pytest.approx(value), (name, k, user)


def test_oracle_lists() -> None:
    _, held = world(5)
    ranked = np.array([(row + [i for i in range(30) if i not in row])[:5] for row in held])
    values = evaluate(ranked, held)
    for k in KS:
        best = [min(k, len(row)) / len(row) for row in held]
        assert values[f"recall@{k}"] == pytest.approx(best)
        for name in ("ndcg", "map", "mrr", "hit"):
            assert values[f"{name}@{k}"] == pytest.approx(np.ones(len(held)))
    assert min(best) < 1  # some users hold more than 5 items, so the two denominators differ


def test_one_held_item_at_each_rank() -> None:
    ranked = np.tile(np.arange(10), (10, 1))
    values = evaluate(ranked, [[rank] for rank in range(10)], (10,))
    rank = np.arange(1, 11)
    assert values["recall@10"] == pytest.approx(np.ones(10))
    assert values["ndcg@10"] == pytest.approx(1 / np.log2(rank + 1))
    assert values["mrr@10"] == pytest.approx(1 / rank)
    assert values["map@10"] == pytest.approx(1 / rank)


def test_random_lists_have_the_expected_recall() -> None:
    generator = np.random.default_rng(0)
    n_users, n_items, n_train, k = 4000, 50, 10, 10
    order = np.argsort(
        generator.random((n_users, n_items)), axis=1
    )  # of these the first ten are training items
    scores = generator.random((n_users, n_items))
    np.put_along_axis(scores, order[:, :n_train], -np.inf, axis=1)
    ranked = np.argsort(-scores, axis=1)[:, :k]
    recall = evaluate(ranked, order[:, n_train : n_train + 2].tolist(), (k,))["recall@10"].mean()
    assert recall == pytest.approx(k / (n_items - n_train), abs=0.016)  # 4 standard errors


def test_hits_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked, held = world(1)
    whole = find_hits(ranked, histories(held))
    monkeypatch.setattr("mmrec.metrics._CELLS", 30)
    assert np.array_equal(find_hits(ranked, histories(held)), whole)
    assert np.array_equal(whole, [[item in held[u] for item in ranked[u]] for u in range(len(held))])


def test_hits_of_users_without_held_items_and_empty_positions() -> None:
    hits = find_hits(np.array([[-1, -1], [0, -1]]), histories([[], [0]]))
    assert hits.tolist() == [[False, False], [True, False]]


@given(st.integers(0, 10_000), st.integers(2, 40))
@settings(max_examples=25, deadline=None)
def test_invariants(seed: int, n_users: int) -> None:
    ranked, held = world(seed, n_users=n_users)
    values = evaluate(ranked, held, (1, 4, 12))
    generator = np.random.default_rng(seed)
    users, names = generator.permutation(n_users), generator.permutation(30)
    shuffled = evaluate(names[ranked[users]], [names[held[u]].tolist() for u in users], (1, 4, 12))
    for metric, column in values.items():
        assert np.allclose(shuffled[metric], column[users]), metric
        assert ((column >= 0) & (column <= 1 + 1e-12)).all(), metric
    for name in ("recall", "hit", "mrr"):
        assert (values[f"{name}@1"] <= values[f"{name}@4"]).all()
        assert (values[f"{name}@4"] <= values[f"{name}@12"]).all()


# --- against other libraries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5, 12])
def test_torch_geometric_agrees(k: int) -> None:
    """All six accuracy metrics have the definition of torch-geometric 2.8, map's min(K, |T|) included."""
    import torch

    pyg = pytest.importorskip("torch_geometric.metrics")
    ranked, held = world(7)
    values = evaluate(ranked, held, (k,))
    held_out = histories(held)
    edges = torch.stack([torch.from_numpy(held_out.users), torch.from_numpy(held_out.items)])
    classes = {
        "recall": "Recall",
        "ndcg": "NDCG",
        "hit": "HitRatio",
        "mrr": "MRR",
        "map": "MAP",
        "precision": "Precision",
    }
    for name, class_name in classes.items():
        metric = getattr(pyg, f"LinkPred{class_name}")(k=k)
        metric.update(torch.from_numpy(ranked), edges)
        assert values[f"{name}@{k}"].mean() == pytest.approx(float(metric.compute()), abs=1e-6), name


def test_torch_geometric_agrees_on_the_catalogue() -> None:
    """Coverage and popularity agree for full lists (torch-geometric knows no empty positions)."""
    import torch

    pyg = pytest.importorskip("torch_geometric.metrics")
    ranked, held = world(8, n_items=200)
    counts = np.random.default_rng(8).integers(0, 40, 200)
    values = catalogue_metrics(ranked, counts, 40, (4, 12))
    edges = torch.tensor([[0], [held[0][0]]])
    for k in (4, 12):
        coverage = pyg.LinkPredCoverage(k=k, num_dst_nodes=200)
        popularity = pyg.LinkPredAveragePopularity(k=k, popularity=torch.from_numpy(counts))
        for name, metric in (("coverage", coverage), ("popularity", popularity)):
            metric.update(torch.from_numpy(ranked), edges)
            assert values[f"{name}@{k}"] == pytest.approx(float(metric.compute()), rel=1e-5), name


def test_scikit_learn_agrees() -> None:
    """ndcg at every cut-off; recall and precision of the indicator matrix; average precision of the full list."""
    from sklearn.metrics import average_precision_score, ndcg_score, precision_score, recall_score

    ranked, held = world(9, depth=30)
    truth = np.zeros(ranked.shape, dtype=int)
    for user, row in enumerate(held):
        truth[user, row] = 1
    scores = np.zeros(ranked.shape)
    np.put_along_axis(scores, ranked, np.arange(30, 0, -1.0)[None, :].repeat(len(held), 0), axis=1)
    values = evaluate(ranked, held, (1, 5, 30))
    for k in (1, 5, 30):
        chosen = (scores > 30 - k).astype(int)
        assert values[f"ndcg@{k}"].mean() == pytest.approx(ndcg_score(truth, scores, k=k))
        assert values[f"recall@{k}"].mean() == pytest.approx(recall_score(truth, chosen, average="samples"))
        assert values[f"precision@{k}"].mean() == pytest.approx(
            precision_score(truth, chosen, average="samples")
        )
    # average precision has no cut-off and divides by |T|: our map where the cut-off is the whole catalogue
    assert values["map@30"].mean() == pytest.approx(average_precision_score(truth, scores, average="samples"))


# --- catalogue ---------------------------------------------------------------------------------------------------


def test_catalogue_by_hand() -> None:
    ranked = np.array([[0, 1], [0, 2], [0, -1]])
    values = catalogue_metrics(ranked, np.array([8, 2, 0, 1]), 8, (1, 2))
    assert values == pytest.approx(
        {
            "coverage@1": 1 / 4,
            "coverage@2": 3 / 4,
            "gini@1": 3 / 4,  # one of four items takes all: (n - 1) / n
            "gini@2": (-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5),  # counts 0, 1, 1, 3
            "novelty@1": 0.0,  # everyone has item 0
            "novelty@2": (3 * 0 + 1 * 2 + 1 * 3) / 5,  # -log2(2/8) = 2; unseen item 2 counts as 1/8: 3 bits
            "popularity@1": 8.0,
            "popularity@2": (3 * 8 + 2 + 0) / 5,
        }
    )


def test_gini_is_the_mean_absolute_difference() -> None:
    ranked, _ = world(3)
    counts = np.bincount(ranked.ravel(), minlength=30)
    pairs = np.abs(counts[:, None] - counts[None, :]).sum() / (2 * 30 * counts.sum())
    assert catalogue_metrics(ranked, np.ones(30, int), 10, (12,))["gini@12"] == pytest.approx(pairs)


def test_equal_recommendation_has_no_inequality_and_none_at_all_gives_zeros() -> None:
    ranked = np.arange(12).reshape(4, 3)
    assert catalogue_metrics(ranked, np.ones(12, int), 5, (3,))["gini@3"] == pytest.approx(0)
    nothing = catalogue_metrics(np.full((4, 3), -1), np.ones(12, int), 5, (3,))
    assert set(nothing.values()) == {0.0}


def test_order_of_cut_offs_does_not_matter() -> None:
    ranked, _ = world(4)
    counts = np.arange(30)
    both = catalogue_metrics(ranked, counts, 30, (10, 2))
    for k in (2, 10):
        for name, value in catalogue_metrics(ranked, counts, 30, (k,)).items():
            assert both[name] == pytest.approx(value)


# --- wrong input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ks", [(5, 20), (0,), ()])
def test_cut_offs_outside_the_lists(ks: tuple[int, ...]) -> None:
    ranked, held = world(0)
    with pytest.raises(ConfigError, match="between 1 and 12"):
        evaluate(ranked, held, ks)
    with pytest.raises(ConfigError, match="between 1 and 12"):
        catalogue_metrics(ranked, np.ones(30, int), 10, ks)


def test_impossible_arguments() -> None:
    with pytest.raises(ValueError, match="at least one held-out"):
        user_metrics(np.zeros((2, 3), bool), np.array([1, 0]), (3,))
    with pytest.raises(ValueError, match="2 lists but 1 rows"):
        find_hits(np.zeros((2, 3), np.int64), histories([[0]]))
    with pytest.raises(ValueError, match="training user"):
        catalogue_metrics(np.zeros((2, 3), np.int64), np.zeros(4, int), 0, (3,))


def test_parse_metric() -> None:
    assert [parse_metric(f"{name}@20") for name in METRICS] == [(name, 20) for name in METRICS]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("recal@20", "did you mean 'recall@20'"),
        ("recall", "did you mean 'recall@20'"),
        ("NDCG@10", "did you mean 'ndcg@10'"),
        ("ndcg_5", "did you mean 'ndcg@5'"),
        ("recall@0", "did you mean 'recall@20'"),
        ("accuracy", "choose one of: "),
    ],
)
def test_misspelt_metric(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        parse_metric(text)


def test_metric_that_cannot_be_monitored() -> None:
    with pytest.raises(ConfigError, match="found: 'gini@20'"):
        parse_metric("gini@20", USER_METRICS)
