from __future__ import annotations

import numpy as np

from tests.worlds import planted_blocks


def test_every_user_lacks_one_item_of_the_own_block() -> None:
    world = planted_blocks(cold_items=2)
    assert world.cold.tolist() == [18, 19]
    for user in range(24):
        owned = {*world.data.train[user].tolist(), int(world.withheld[user])}
        assert owned == set(range(user % 2, 18, 2))
        assert len(world.data.train[user]) == 8
    assert set(world.data.train.items.tolist()) == set(range(18))  # each warm item has training users


def test_features_separate_the_blocks_and_miss_where_asked() -> None:
    world = planted_blocks(missing=0.25)
    absent = [~table.present for table in world.data.features.values()]
    assert [mask.sum() for mask in absent] == [5, 5]
    assert not (absent[0] & absent[1]).any()
    for table in world.data.features.values():
        likeness = table.vectors @ table.vectors.T
        same_block = np.add.outer(np.arange(20), np.arange(20)) % 2 == 0
        both = np.outer(table.present, table.present)
        assert likeness[same_block & both].min() > 0 > likeness[~same_block & both].max()
        assert not table.vectors[~table.present].any()


def test_same_seed_same_world() -> None:
    first, second, other = planted_blocks(seed=1), planted_blocks(seed=1), planted_blocks(seed=2)
    assert np.array_equal(first.data.train.items, second.data.train.items)
    assert np.array_equal(first.withheld, second.withheld)
    assert np.array_equal(first.data.features["text"].vectors, second.data.features["text"].vectors)
    assert not np.array_equal(first.withheld, other.withheld)
