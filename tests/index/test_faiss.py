"""What FAISS does beyond the contract: help from exact search, dead entries, options."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.errors import ConfigError
from mmrec.index import build_index, load_index
from mmrec.index.faiss import FaissIndex, Options
from mmrec.index.items import make_items
from tests.index.backends import best, check_found, make_vectors

VECTORS, QUERIES = make_vectors(2000), make_vectors(20, seed=1)
ALL = np.ones(2000, dtype=bool)


def make_faiss(**options: object) -> FaissIndex:
    return FaissIndex.build(make_items(VECTORS), Options.model_validate(options))


def test_few_permitted_items_are_searched_exactly_and_counted() -> None:
    index = make_faiss()
    allow = np.arange(0, 2000, 50)
    found = index.search(QUERIES, 10, allow=allow)
    check_found(found, best(QUERIES, VECTORS, np.arange(2000), 10, np.isin(np.arange(2000), allow)))
    assert index.counts == {"few permitted": 20}


def test_short_lists_are_made_good_and_counted() -> None:
    """One cell of many is searched, and most of what is in it may not appear."""
    index = make_faiss(kind="ivfpq", nlist=40, nprobe=1, pieces=4)
    allow = np.arange(0, 2000, 20)
    found = index.search(QUERIES, 20, allow=allow)
    short = index.counts["short"]
    assert short > 0
    assert "few permitted" not in index.counts
    assert (found.ids >= 0).all()
    assert np.isin(found.ids, allow).all()
    expected = best(QUERIES, VECTORS, np.arange(2000), 20, np.isin(np.arange(2000), allow))
    assert (found.ids == expected).all(axis=1).sum() >= short


def test_long_lists_to_deny_do_not_shorten_what_is_found() -> None:
    index = make_faiss(kind="hnsw")
    everything = np.argsort(-(QUERIES @ VECTORS.T), axis=1)
    found = index.search(QUERIES, 10, deny=[line[:300] for line in everything])
    check_found(found, everything[:, 300:310], recall=0.9)


def test_dead_entries_never_appear_and_are_cleared_away() -> None:
    for kind in ("flat", "hnsw", "ivfpq"):
        index = make_faiss(kind=kind)
        left = ALL.copy()
        for start in range(0, 2000, 300):
            index.delete(np.arange(start, start + 150))
            left[start : start + 150] = False
            found = index.search(QUERIES, 10)
            assert left[found.ids].all()
            assert len(index.entries) == index.native.ntotal
            assert (index.entries >= 0).sum() == len(index) == left.sum()
            assert 4 * (index.entries < 0).sum() <= len(index.entries)


def test_speed_options_can_change_when_loading_and_shape_cannot(tmp_path: Path) -> None:
    make_faiss(ef_search=4, refine=1).save(tmp_path)
    index = load_index(tmp_path, ef_search=500, refine=8)
    expected = best(QUERIES, VECTORS, np.arange(2000), 10, ALL)
    check_found(index.search(QUERIES, 10), expected, recall=0.99)
    with pytest.raises(ConfigError, match="build the index anew"):
        load_index(tmp_path, kind="flat")


def test_the_same_seed_gives_the_same_lists() -> None:
    one, two = (make_faiss(kind="ivfpq", nprobe=2, seed=5).search(QUERIES, 10) for _ in range(2))
    np.testing.assert_array_equal(one.ids, two.ids)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 256 items"):
        build_index("faiss", VECTORS[:255], kind="ivfpq")
    with pytest.raises(ConfigError, match="divide the 8 dimensions"):
        build_index("faiss", VECTORS, kind="ivfpq", pieces=3)


def test_filters_see_attributes_of_added_items() -> None:
    index = build_index("faiss", VECTORS, pd.DataFrame({"price": np.arange(2000)}))
    index.add(np.array([9, 3000]), VECTORS[:2] * 50, pd.DataFrame({"price": [-1, -2]}))
    assert index.search(VECTORS[:1], 3, where="price < 0").ids[0].tolist()[0] == 9
    assert set(index.search(VECTORS[1:2], 3, where="price < 1000").ids[0]) >= {3000}
