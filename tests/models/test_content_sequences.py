"""UniSRec and Molar: content vectors in sequences, their adaptor, and what trains when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmrec.data.batches import HistoryBatch, HistoryBatches
from mmrec.losses import info_nce
from mmrec.models.sequence.adaptor import Adaptor
from mmrec.models.sequence.unisrec import drop_items
from mmrec.nn import EpochCounter
from tests.dense import assert_close
from tests.learning import all_scores, begin_epoch, new_model
from tests.small_data import N_ITEMS, small_data

SMALL: dict[str, Any] = {"dim": 6, "max_length": 5, "dropout": 0.0, "experts": 3}
DATA = small_data("text", "image", missing=True)  # item 2 has neither


def batch() -> HistoryBatch:
    return next(iter(HistoryBatches(DATA, 100, 5).epoch(torch.Generator().manual_seed(0))))


def test_adaptor_is_a_mixture_of_shifted_maps() -> None:
    adaptor = Adaptor(DATA.features, 6, 3).eval()
    with torch.no_grad():
        for parameter in adaptor.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    shares = adaptor.shares(adaptor.features)
    assert_close(shares.sum(1), torch.ones(N_ITEMS), 1e-6)
    for item in range(N_ITEMS):
        parts = [
            torch.cat([F.normalize(DATA.features[m].tensor(), dim=1)[item] for m in ("image", "text")])
            - adaptor.shift[expert]
            for expert in range(3)
        ]
        expected = sum(shares[item, k] * parts[k] @ adaptor.map[k] for k in range(3))
        assert_close(adaptor()[item], torch.zeros(6) if item == 2 else expected, 1e-4)
    adaptor.train()
    assert not torch.equal(adaptor.shares(adaptor.features), adaptor.shares(adaptor.features))  # noise


class TestUniSRec:
    def test_pretraining_is_two_contrasts_and_ends(self) -> None:
        model = new_model("unisrec", DATA, **SMALL, pretrain_epochs=2, view_weight=0.5, drop=0.0)
        for epoch in range(3):
            begin_epoch(model, epoch)
            assert set(model.loss(batch())) == ({"next", "views"} if epoch < 2 else {"ce"})

    def test_terms_of_pretraining(self) -> None:
        model = new_model("unisrec", DATA, **SMALL, pretrain_epochs=1, view_weight=0.5, drop=0.0)
        begin_epoch(model, 0)
        model.eval()
        table, own = model._items(), batch()
        states, inside = model._encode(table, own.items), own.targets >= 0
        targets = own.targets[inside]
        assert len(targets) > len(targets.unique())  # one that comes twice is not its own negative
        terms = model.loss(own)
        assert_close(terms["next"], info_nce(states[inside], table[targets], 0.07, targets), 1e-5)
        last = torch.stack([row[int(n) - 1] for row, n in zip(states, inside.sum(1), strict=True)])
        assert_close(terms["views"], 0.5 * info_nce(last, last, 0.07), 1e-5)

    def test_ids_are_added_to_items_that_somebody_had(self) -> None:
        with_ids = new_model("unisrec", DATA, **SMALL, item_ids=True)
        without = new_model("unisrec", DATA, **SMALL)
        without.load_state_dict({k: v for k, v in with_ids.state_dict().items() if k != "ids"})
        changed = (with_ids.eval()._items() - without.eval()._items()).abs().sum(1) > 0
        assert changed.tolist() == (np.bincount(DATA.train.items, minlength=N_ITEMS) > 0).tolist()

    def test_views_leave_out_items_but_never_the_last(self) -> None:
        items = torch.tensor([[3, 0, 5, 1], [7, 8, -1, -1], [2, -1, -1, -1], [-1, -1, -1, -1]])
        assert torch.equal(drop_items(items, 0.0), items)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for _ in range(20):
                for before, after in zip(items.tolist(), drop_items(items, 0.7).tolist(), strict=True):
                    kept, there = ([i for i in row if i >= 0] for row in (after, before))
                    assert after == kept + [-1] * (4 - len(kept))
                    assert kept == [i for i in there if i in kept]
                    assert kept[-1:] == there[-1:]


class TestMolar:
    def made(self, **params: Any) -> Any:
        return new_model("molar", DATA, **{**SMALL, "align_after": 1, "align_weight": 0.5, **params})

    def test_the_id_tower_trains_first_and_gets_nothing_from_the_alignment(self) -> None:
        model = self.made()
        begin_epoch(model, 0)
        assert set(model.loss(batch())) == {"content", "ids"}
        begin_epoch(model, 1)
        assert not model.id_tower.training
        terms = model.loss(batch())
        assert set(terms) == {"content", "align"}
        (terms["content"] + terms["align"]).backward()
        assert model.ids.grad is None
        assert all(parameter.grad is None for parameter in model.id_tower.parameters())
        assert model.adaptor.map.grad.abs().max() > 0

    def test_without_weight_only_content_is_left(self) -> None:
        model = self.made(align_weight=0.0, align_after=0)
        begin_epoch(model, 0)
        terms = model.loss(batch())
        assert terms["align"] == 0
        other = new_model("unisrec", DATA, **{**SMALL, "heads": 1})
        other.adaptor.load_state_dict(model.adaptor.state_dict())
        other.encoder.load_state_dict(model.content_tower.state_dict())
        assert_close(all_scores(model, DATA), all_scores(other, DATA), 1e-6)

    def test_alignment_is_symmetric_and_least_for_equal_vectors(self) -> None:
        one, two = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
        assert info_nce(one, one, 0.1) < info_nce(one, two, 0.1)


def test_epochs_are_counted_once_even_when_resumed_in_their_middle() -> None:
    counter = EpochCounter()
    for seed in (5, 5, 6):
        counter.begin(torch.Generator().manual_seed(seed))
    resumed = EpochCounter()
    resumed.load_state_dict(counter.state_dict())
    resumed.begin(torch.Generator().manual_seed(6))
    assert (counter.number, resumed.number) == (2, 2)
    resumed.begin(torch.Generator().manual_seed(7))
    assert resumed.number == 3


@pytest.mark.parametrize("name", ["unisrec", "molar"])
def test_items_that_nobody_had_are_scored_by_content(name: str) -> None:
    model = new_model(name, DATA, **SMALL)
    cold = DATA.n_items - 1
    scores = all_scores(model, DATA)[DATA.train.counts > 0]
    assert scores[:, cold].abs().min() > 0
    assert not scores[:, 2].any()  # no content: no vector
