from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError, FeatureError
from mmrec.graph import (
    SparseMatrix,
    add,
    co_user_graph,
    edges,
    knn_item_graph,
    modality_graph,
    modality_weights,
    normalize_bipartite,
    propagate,
    propagate_mean,
    propagate_sum,
    prune_edges,
)
from tests.dense import (
    assert_close,
    cosines,
    history_matrix,
    interaction_matrix,
    item_graph,
    layer_mean,
    neighbour_lists,
    normalized_adjacency,
)

USERS, ITEMS = 13, 9


def random_history(seed: int = 0, *, n_users: int = USERS, n_items: int = ITEMS) -> Histories:
    """Some pairs; the last user and the last item have none."""
    rng = np.random.default_rng(seed)
    likes = rng.random((n_users, n_items)) < 0.4
    likes[-1], likes[:, -1] = False, False
    pairs = np.argwhere(likes)
    return Histories.from_pairs(pairs[:, 0], pairs[:, 1], n_users)


def random_sparse(seed: int, n_rows: int, n_columns: int) -> tuple[SparseMatrix, Tensor]:
    """A sparse matrix with an empty row and an empty column, and the same one dense."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(n_rows, n_columns)) * (rng.random((n_rows, n_columns)) < 0.3)
    dense[n_rows // 2], dense[:, n_columns // 2] = 0, 0
    full = torch.from_numpy(dense.astype(np.float32))
    rows, columns = full.nonzero(as_tuple=True)
    shuffled = torch.from_numpy(rng.permutation(len(rows)))
    rows, columns = rows[shuffled], columns[shuffled]
    return SparseMatrix.from_entries(rows, columns, full[rows, columns], (n_rows, n_columns)), full


def table(vectors: np.ndarray, present: np.ndarray | None = None, modality: str = "text") -> FeatureTable:
    present = np.ones(len(vectors), dtype=bool) if present is None else present
    vectors = np.where(present[:, None], vectors, 0).astype(np.float32)
    return FeatureTable(f"{modality}-test", modality, vectors, present)


def two_tables(seed: int = 0, n: int = 17, *, missing: bool = False) -> dict[str, FeatureTable]:
    rng = np.random.default_rng(seed)
    text, image = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    if missing:
        text[[1, 2, 3]], image[[3, 4]] = False, False
    return {
        "text": table(rng.normal(size=(n, 5)), text),
        "image": table(rng.normal(size=(n, 7)), image, "image"),
    }


class TestNormalizedBipartiteGraph:
    def test_equals_the_dense_formula(self) -> None:
        train = random_history()
        built = normalize_bipartite(*edges(train), USERS, ITEMS).to_dense()
        assert_close(built, normalized_adjacency(history_matrix(train, ITEMS)), 1e-6)

    def test_is_symmetric_with_spectral_radius_one(self) -> None:
        for seed in range(5):
            dense = normalize_bipartite(*edges(random_history(seed)), USERS, ITEMS).to_dense().double()
            assert torch.equal(dense, dense.T)
            spectrum = torch.linalg.eigvalsh(dense)
            assert spectrum.abs().max() == pytest.approx(1, abs=1e-6)  # 1 for each connected component
            assert torch.allclose(spectrum, -spectrum.flip(0), atol=1e-6)  # bipartite

    def test_isolated_nodes_have_empty_rows_and_no_self_loops_appear(self) -> None:
        dense = normalize_bipartite(*edges(random_history()), USERS, ITEMS).to_dense()
        assert not dense[USERS - 1].any()
        assert not dense[-1].any()
        assert not dense.diagonal().any()

    def test_hand_computed(self) -> None:
        # u0-i0, u0-i1, u1-i1: degrees u0 2, u1 1, i0 1, i1 2
        built = normalize_bipartite(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, 2).to_dense()
        half = 1 / math.sqrt(2)
        expected = [[0, 0, half, 0.5], [0, 0, 0, half], [half, 0, 0, 0], [0.5, half, 0, 0]]
        assert_close(built, torch.tensor(expected), 1e-7)

    def test_without_edges_everything_is_zero(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        graph = normalize_bipartite(none, none, 3, 2)
        assert graph.shape == (5, 5)
        embeddings = torch.randn(5, 4)
        assert not propagate(graph, embeddings).any()
        assert_close(propagate_mean(graph, embeddings, 3), embeddings / 4, 1e-6)

    def test_edges_are_the_training_pairs(self) -> None:
        train = Histories.from_pairs(np.array([2, 0, 2]), np.array([1, 4, 0]), 3)
        users, items = edges(train)
        assert list(zip(users.tolist(), items.tolist(), strict=True)) == [(0, 4), (2, 1), (2, 0)]


class TestPropagation:
    @pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5)])
    def test_product_and_gradient_equal_dense(self, shape: tuple[int, int]) -> None:
        matrix, full = random_sparse(1, *shape)
        dense = torch.randn(shape[1], 3, requires_grad=True)
        twin = dense.detach().clone().requires_grad_()
        incoming = torch.randn(shape[0], 3)
        propagate(matrix, dense).backward(incoming)
        (full @ twin).backward(incoming)
        assert_close(propagate(matrix, dense), full @ twin, 1e-6)
        assert dense.grad is not None and twin.grad is not None
        assert_close(dense.grad, twin.grad, 1e-6)

    def test_transpose(self) -> None:
        matrix, full = random_sparse(2, 5, 8)
        assert torch.equal(matrix.to_dense(), full)
        assert torch.equal(matrix.transpose.to_dense(), full.T)
        assert matrix.transpose.shape == (8, 5)

    def test_entries_given_twice_count_twice(self) -> None:
        place = torch.tensor([1, 1, 0])
        matrix = SparseMatrix.from_entries(
            place, torch.tensor([2, 2, 1]), torch.tensor([1.0, 2.0, 4.0]), (2, 3)
        )
        expected = torch.tensor([[0.0, 4.0, 0.0], [0.0, 0.0, 3.0]])
        assert torch.equal(matrix.to_dense(), expected)
        assert torch.equal(propagate(matrix, torch.eye(3)), expected)

    def test_gradcheck(self) -> None:
        # Values are stored in float32, but forward and backward use the same ones: float64 checks are exact.
        matrix, _ = random_sparse(3, 5, 7)
        dense = torch.randn(7, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x: propagate(matrix, x), (dense,))
        graph = normalize_bipartite(*edges(random_history()), USERS, ITEMS)
        embeddings = torch.randn(USERS + ITEMS, 2, dtype=torch.float64, requires_grad=True)
        for layers in (0, 1, 3):
            assert torch.autograd.gradcheck(
                lambda x, layers=layers: propagate_mean(graph, x, layers), (embeddings,)
            )

    @pytest.mark.parametrize("layers", [0, 1, 2, 4])
    def test_mean_of_layers_equals_dense(self, layers: int) -> None:
        train = random_history(4)
        graph = normalize_bipartite(*edges(train), USERS, ITEMS)
        adjacency = normalized_adjacency(history_matrix(train, ITEMS))
        fast = torch.randn(USERS + ITEMS, 6, requires_grad=True)
        slow = fast.detach().double().requires_grad_()
        incoming = torch.randn(USERS + ITEMS, 6)
        result, expected = propagate_mean(graph, fast, layers), layer_mean(adjacency, slow, layers)
        result.backward(incoming)
        expected.backward(incoming.double())
        assert_close(result, expected, 1e-6)
        assert fast.grad is not None and slow.grad is not None
        assert_close(fast.grad, slow.grad, 1e-6)

    def test_mean_of_layers_of_a_matrix_that_is_not_symmetric(self) -> None:
        matrix, full = random_sparse(5, 6, 6)
        fast = torch.randn(6, 2, requires_grad=True)
        slow = fast.detach().double().requires_grad_()
        propagate_mean(matrix, fast, 3).square().sum().backward()
        layer_mean(full.double(), slow, 3).square().sum().backward()
        assert fast.grad is not None and slow.grad is not None
        assert_close(fast.grad, slow.grad)

    def test_no_layers_give_the_tables_back(self) -> None:
        graph = normalize_bipartite(*edges(random_history()), USERS, ITEMS)
        embeddings = torch.randn(USERS + ITEMS, 3)
        result = propagate_mean(graph, embeddings, 0)
        assert torch.equal(result, embeddings)
        result.zero_()
        assert embeddings.any()  # the tables themselves were not handed out

    def test_input_is_left_as_it_was(self) -> None:
        graph = normalize_bipartite(*edges(random_history()), USERS, ITEMS)
        embeddings = torch.randn(USERS + ITEMS, 3)
        before = embeddings.clone()
        propagate_mean(graph, embeddings, 2)
        propagate(graph, embeddings)
        assert torch.equal(embeddings, before)

    def test_a_gradient_that_is_an_expanded_view(self) -> None:
        graph = normalize_bipartite(*edges(random_history()), USERS, ITEMS)
        embeddings = torch.randn(USERS + ITEMS, 3, requires_grad=True)
        propagate(graph, embeddings).sum().backward()  # its gradient has stride 0
        assert embeddings.grad is not None
        assert_close(embeddings.grad, graph.to_dense().sum(0)[:, None].expand(-1, 3), 1e-6)

    def test_moves_with_the_module_that_holds_it(self) -> None:
        class Holder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.graph, _ = random_sparse(6, 4, 5)

        holder = Holder()
        assert not holder.state_dict()  # rebuilt from data, never saved
        moved = holder.to("meta").graph
        for part in (moved, moved.transpose):
            assert {part.offsets.device.type, part.columns.device.type, part.values.device.type} == {"meta"}

    @pytest.mark.gpu
    def test_equals_the_cpu_on_cuda(self) -> None:
        train = random_history(7, n_users=300, n_items=200)
        graph = normalize_bipartite(*edges(train), 300, 200)
        embeddings, incoming = torch.randn(500, 16), torch.randn(500, 16)
        gradients, results = [], []
        for device in ("cpu", "cuda", "cuda"):
            leaf = embeddings.to(device).requires_grad_()
            result = propagate_mean(graph.to(device), leaf, 2)
            result.backward(incoming.to(device))
            assert leaf.grad is not None
            results.append(result.detach().cpu())
            gradients.append(leaf.grad.cpu())
        assert_close(results[1], results[0])
        assert_close(gradients[1], gradients[0])
        assert torch.equal(results[1], results[2])
        assert torch.equal(gradients[1], gradients[2])


class TestPruning:
    def test_without_dropout_all_edges_stay(self) -> None:
        users, items = edges(random_history())
        kept = prune_edges(users, items, 0.0, torch.Generator().manual_seed(0))
        assert kept.tolist() == list(range(len(users)))
        full = normalize_bipartite(users, items, USERS, ITEMS)
        again = normalize_bipartite(users[kept], items[kept], USERS, ITEMS)
        assert torch.equal(full.values, again.values)
        assert torch.equal(full.columns, again.columns)

    @given(st.integers(1, 60), st.floats(0, 0.999), st.integers(0, 2**32))
    @settings(max_examples=60, deadline=None)
    def test_keeps_the_floor_of_the_share(self, n: int, dropout: float, seed: int) -> None:
        users, items = torch.arange(n) % 7, torch.arange(n)
        kept = prune_edges(users, items, dropout, torch.Generator().manual_seed(seed))
        assert len(kept) == math.floor(round(n * (1 - dropout), 8))
        assert torch.equal(kept, kept.unique())  # ascending, none twice
        assert len(kept) == 0 or (kept.min() >= 0 and kept.max() < n)

    @pytest.mark.parametrize(("n", "dropout", "keep"), [(10, 0.9, 1), (100, 0.7, 30), (1000, 0.8, 200)])
    def test_rounding_of_the_share_loses_no_edge(self, n: int, dropout: float, keep: int) -> None:
        # 10 * (1 - 0.9) is 0.99999… in floating point
        kept = prune_edges(torch.arange(n), torch.arange(n), dropout, torch.Generator().manual_seed(0))
        assert len(kept) == keep

    def test_same_generator_same_edges_and_the_next_draw_differs(self) -> None:
        users, items = edges(random_history(n_users=40, n_items=30))
        one, two = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        first = prune_edges(users, items, 0.5, one)
        assert torch.equal(first, prune_edges(users, items, 0.5, two))
        assert not torch.equal(first, prune_edges(users, items, 0.5, one))

    def test_hubs_lose_their_edges_more_often(self) -> None:
        rng = np.random.default_rng(0)
        popularity = 1 / np.arange(1, 61)
        likes = rng.random((60, 60)) < np.sqrt(np.outer(popularity, popularity)) * 1.5
        users, items = (torch.from_numpy(side) for side in np.nonzero(likes))
        weight = (torch.bincount(users)[users] * torch.bincount(items)[items]).double().rsqrt()
        assert weight.max() > 10 * weight.min()
        generator = torch.Generator().manual_seed(0)
        frequency = torch.zeros(len(users))
        for _ in range(500):
            frequency[prune_edges(users, items, 0.8, generator)] += 1
        assert frequency.sum() == 500 * math.floor(0.2 * len(users) + 1e-9)
        assert stats.spearmanr(frequency, weight).statistic > 0.9

    def test_distribution_is_that_of_successive_weighted_draws(self) -> None:
        # i0 is a hub of 3 users, so w = 1/sqrt(3 * {1, 2, 1}), 1/sqrt(2 * 1), 1
        users, items = torch.tensor([0, 1, 2, 1, 3]), torch.tensor([0, 0, 0, 1, 2])
        weight = (torch.bincount(users)[users] * torch.bincount(items)[items]).double().rsqrt()
        p = (weight / weight.sum()).tolist()
        pairs = list(combinations(range(5), 2))
        expected = [p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in pairs]
        n, generator = 8000, torch.Generator().manual_seed(1)
        drawn = torch.stack([prune_edges(users, items, 0.6, generator) for _ in range(n)])
        reference = torch.multinomial(weight.expand(n, -1), 2, generator=generator).sort(1).values
        for sample in (drawn, reference):
            seen = [((sample[:, 0] == a) & (sample[:, 1] == b)).sum().item() for a, b in pairs]
            assert sum(seen) == n
            assert stats.chisquare(seen, [n * probability for probability in expected]).pvalue > 1e-3

    def test_no_edges(self) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        assert len(prune_edges(none, none, 0.5, torch.Generator())) == 0


class TestItemGraph:
    @pytest.mark.parametrize("missing", [False, True])
    @pytest.mark.parametrize("k", [1, 4, 30])
    def test_equals_the_dense_formula(self, k: int, missing: bool) -> None:
        features = two_tables(missing=missing)
        weights = {"text": 0.9, "image": 0.1}
        built = knn_item_graph(features, k, weights, 17)
        expected = item_graph(features, k, weights)
        assert_close(built.to_dense(), expected, 1e-6)
        assert_close(built.transpose.to_dense(), expected.T, 1e-6)

    def test_rows_sum_to_one_and_hold_between_k_and_2k_entries(self) -> None:
        graph = knn_item_graph(two_tables(n=50), 6, {"text": 0.9, "image": 0.1}, 50)
        dense = graph.to_dense()
        assert_close(dense.sum(1), torch.ones(50), 1e-6)
        entries = (dense > 0).sum(1)
        assert entries.min() >= 6
        assert 6 < entries.max() <= 12
        single = knn_item_graph({"text": two_tables(n=50)["text"]}, 6, {"text": 1.0}, 50)
        assert torch.equal(single.values, torch.full((300,), 1 / 6))

    @pytest.mark.parametrize(("image_weight", "alone"), [(0.0, "text"), (1.0, "image")])
    def test_a_weight_of_zero_gives_exactly_the_other_graph(self, image_weight: float, alone: str) -> None:
        features = two_tables()
        weights = modality_weights(list(features), image_weight)
        mixed = knn_item_graph(features, 5, weights, 17)
        single = knn_item_graph({alone: features[alone]}, 5, {alone: 1.0}, 17)
        assert torch.equal(mixed.to_dense(), single.to_dense())
        assert len(mixed.values) == len(single.values)

    def test_absent_items_have_empty_rows_and_are_nobodys_neighbours(self) -> None:
        features = {"text": two_tables(missing=True)["text"]}
        dense = knn_item_graph(features, 17, {"text": 1.0}, 17).to_dense()
        absent = [1, 2, 3]
        assert not dense[absent].any()
        assert not dense[:, absent].any()
        others = [i for i in range(17) if i not in absent]
        assert_close(dense[others].sum(1), torch.ones(14), 1e-6)
        both = knn_item_graph(two_tables(missing=True), 4, {"text": 0.5, "image": 0.5}, 17).to_dense()
        assert not both[3].any()  # lacks both
        assert not both[:, 3].any()
        assert_close(both[[1, 2, 4]].sum(1), torch.ones(3), 1e-6)  # lack one

    def test_a_present_zero_vector_keeps_only_itself(self) -> None:
        vectors = np.array([[1, 0], [0, 0], [0, 1]])
        dense = knn_item_graph({"text": table(vectors)}, 2, {"text": 1.0}, 3).to_dense()
        assert dense[1].tolist() == [0, 1, 0]
        assert dense[0].tolist() == [0.5, 0.5, 0]  # cosine 0 ties between 1 and 2: the lower id

    def test_weights_are_checked(self) -> None:
        features = two_tables()
        with pytest.raises(ConfigError, match="modality weights"):
            knn_item_graph(features, 3, {"text": 0.0, "image": 0.0}, 17)
        with pytest.raises(ConfigError, match="modality weights"):
            knn_item_graph(features, 3, {"text": 1.5, "image": -0.5}, 17)

    def test_shares_of_modalities(self) -> None:
        assert modality_weights(["text", "image"], 0.1) == pytest.approx({"text": 0.9, "image": 0.1})
        assert modality_weights(["image"], 0.1) == {"image": 1.0}
        assert modality_weights(["text"], 0.9) == {"text": 1.0}
        assert modality_weights(["image", "text", "audio"], 0.2) == pytest.approx(
            {"text": 0.4, "audio": 0.4, "image": 0.2}
        )
        assert modality_weights(["text", "audio"], 0.2) == {"text": 0.5, "audio": 0.5}
        with pytest.raises(FeatureError, match="mmrec encode"):
            modality_weights([], 0.1)


def test_pruned_graph_has_its_own_degrees() -> None:
    users, items = edges(random_history(8))
    kept = prune_edges(users, items, 0.5, torch.Generator().manual_seed(0))
    built = normalize_bipartite(users[kept], items[kept], USERS, ITEMS).to_dense()
    expected = normalized_adjacency(interaction_matrix(users[kept], items[kept], USERS, ITEMS))
    assert_close(built, expected, 1e-6)


class TestModalityGraph:
    def test_cosine_weights_equal_the_dense_formula(self) -> None:
        table = two_tables(missing=True)["text"]
        own = np.flatnonzero(table.present)
        kept = np.zeros((17, 17))
        similarity = cosines(table.vectors)
        for item, nearest in zip(own, neighbour_lists(table.vectors[own], 4), strict=True):
            columns = own[nearest]
            kept[item, columns] = np.maximum(similarity[item, columns], 0)
            if not table.vectors[item].any():
                kept[item, item] = 1
        degree = kept.sum(1)
        scale = np.divide(1, np.sqrt(degree), out=np.zeros(17), where=degree > 0)
        built = modality_graph(table, 4, "cosine")
        assert_close(built.to_dense(), torch.from_numpy(scale[:, None] * kept * scale), 1e-6)

    def test_negative_cosines_count_as_zero(self) -> None:
        vectors = np.array([[1, 0], [-1, 0], [-1, 0.1]], dtype=np.float32)
        table = FeatureTable("text", "text", vectors, np.ones(3, dtype=bool))
        built = modality_graph(table, 3, "cosine").to_dense()
        assert torch.isfinite(built).all()
        assert (built >= 0).all()
        assert built[0].tolist() == [1, 0, 0]

    def test_mean_is_one_over_k(self) -> None:
        built = modality_graph(two_tables(missing=False)["text"], 5)
        assert built.values.tolist() == pytest.approx([0.2] * (17 * 5))


class TestCoUserGraph:
    def test_equals_the_dense_formula(self) -> None:
        rng = np.random.default_rng(0)
        likes = rng.random((12, 9)) < 0.3
        likes[3] = False  # a user without anything in common with anybody
        pairs = np.argwhere(likes)
        train = Histories.from_pairs(pairs[:, 0], pairs[:, 1], 12)
        common = likes.astype(float) @ likes.T.astype(float)
        np.fill_diagonal(common, 0)
        expected = np.zeros((12, 12))
        for user in range(12):
            nearest = [
                other for other in np.argsort(-common[user], kind="stable")[:4] if common[user, other] > 0
            ]
            weights = np.exp(common[user, nearest])
            expected[user, nearest] = weights / weights.sum()
        built = co_user_graph(train, 9, 4).to_dense()
        assert_close(built, torch.from_numpy(expected), 1e-6)
        assert built[3].sum() == 0

    def test_many_common_items_do_not_overflow(self) -> None:
        items = np.tile(np.arange(500), 3)
        train = Histories.from_pairs(np.repeat(np.arange(3), 500), items, 3)
        built = co_user_graph(train, 500, 2)
        assert_close(built.to_dense(), (torch.ones(3, 3) - torch.eye(3)) / 2, 1e-6)


class TestSparseMatrix:
    def test_rows_scaling_and_sums(self) -> None:
        dense = (torch.rand(6, 5) < 0.4) * torch.rand(6, 5)
        other = (torch.rand(6, 5) < 0.4) * torch.rand(6, 5)
        one, two = (
            SparseMatrix.from_entries(*m.nonzero(as_tuple=True), m[m != 0], (6, 5)) for m in (dense, other)
        )
        factors = torch.rand(6)
        assert torch.equal(one.rows, dense.nonzero()[:, 0])
        assert_close(one.scale_rows(factors).to_dense(), factors[:, None] * dense, 1e-7)
        assert_close(one.scale_rows(factors).transpose.to_dense(), (factors[:, None] * dense).T, 1e-7)
        assert_close(add([one, two]).to_dense(), dense + other, 1e-7)

    def test_sum_of_layers_equals_dense(self) -> None:
        dense = torch.rand(7, 7, dtype=torch.float64) * (torch.rand(7, 7) < 0.5)
        matrix = SparseMatrix.from_entries(*dense.nonzero(as_tuple=True), dense[dense != 0], (7, 7))
        start = torch.rand(7, 3, dtype=torch.float64, requires_grad=True)
        result = propagate_sum(matrix, start, 3)
        powers = sum(torch.linalg.matrix_power(dense, power) for power in range(4))
        assert_close(result, powers @ start, 1e-6)
        result.pow(2).sum().backward()
        assert start.grad is not None
        assert_close(start.grad, 2 * powers.T @ powers @ start, 1e-6)
