"""What every model of the name table must do; a new model is tested here without a line of its own."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import BATCHES
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import FeatureError, NotFittedError
from mmrec.models.contracts import Generator, ModelConfig, Retriever, Scorer, Users, contract_of, scoring
from mmrec.rank import rank
from mmrec.registry import MODELS, model_class
from mmrec.runs import load_tensors, restore, save_tensors
from tests.contract.hyperparameters import Recorder, modes
from tests.dense import assert_close
from tests.learning import (
    Learned,
    all_scores,
    area_under_curve,
    batches,
    begin_epoch,
    new_model,
    step,
    train,
)
from tests.worlds import PlantedWorld, block_codes, planted_blocks

# The same list for everybody cannot hold each user's own item.
IMPERSONAL = {"popularity"}
# Parameters whose gradient is zero by construction: a constant added to both items of a pair cancels.
CANCELLED = {
    "freedom": r"projections\.\w+\.map\.bias",
    # With both gates near 1/2, as at the start, C + D_image + D_text hardly depends on the shares.
    "gume": r"query\.\d\.\w+",
    "mgcn": r"query(_out)?\.\w+",
    "siger": r"query(_out)?\.\w+",  # the same fusion
}
# The mode in which the loss has to fall. With its detached similarity CM3 weighs its pairs anew in each step, so its
# loss is no function that descent lowers. LIRDRec starts at the least loss: propagation of unit vectors tells the two
# blocks apart, as they are not connected.
FALLING: dict[str, dict[str, Any]] = {
    "cm3": {"detach_similarity": False},
    "lirdrec": {"ui_layers": 0, "item_layers": 0},
    "mscgrec": {"dropout": 0.0},  # the item of a block is chance here: what falls is little more than a third
}
# Losses that are near their lowest here from the start; tests/models shows that they fall elsewhere.
NO_FALL = {
    "dragon": "its untrained sum of layers separates the blocks already: 0.04 in the first epoch",
    "lgmrec": "its normalised content separates the blocks before any training",
    "tiger": "which item of a block comes next is chance here, and that is most of the loss",
    "slmrec": "its negatives are the batch's other positives, half of them of the user's own block",
}


def parametrize(names: list[str]) -> pytest.MarkDecorator:
    """One process for all tests of a model, because they share what ``learned`` has trained."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in sorted(names)]
    )


RANKED = [name for name in MODELS if model_class(name).batches != "rows"]  # the others: test_rankers.py
each_model = parametrize(RANKED)
each_trained = parametrize([name for name in RANKED if model_class(name).batches is not None])


@cache
def world(**options: Any) -> PlantedWorld:
    return planted_blocks(**options)


@cache
def learned(name: str, seed: int = 0, **options: Any) -> Learned:
    """A model trained on ``world(**options)``; shared by the tests that only read it."""
    data = world(**options).data
    return train(new_model(name, data, seed=seed), data, seed=seed)


def with_features(data: TrainingData, *modalities: str) -> TrainingData:
    features = {modality: data.features[modality] for modality in modalities}
    return TrainingData(data.n_users, data.n_items, data.train, features, codes=data.codes)


def same_bits(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@each_model
class TestDeclarations:
    def test_attributes(self, name: str) -> None:
        kind = model_class(name)
        assert issubclass(kind.config_type, ModelConfig)
        assert kind.batches is None or kind.batches in BATCHES
        assert kind.modalities in ("none", "optional", "required")
        assert isinstance(kind.cold_items, bool)
        assert (kind.__doc__ or "").strip().splitlines()[0].endswith((".", ","))

    def test_methods(self, name: str) -> None:
        kind = model_class(name)
        protocols = {"retriever": Retriever, "generator": Generator, "scorer": Scorer}
        for method in [m for m in vars(protocols[contract_of(kind)]) if not m.startswith("_")]:
            assert callable(getattr(kind, method))
        assert callable(getattr(kind, "fit" if kind.batches is None else "loss"))

    def test_config_has_defaults_and_says_what_each_field_means(self, name: str) -> None:
        config = model_class(name).config_type()
        for key, field in type(config).model_fields.items():
            assert field.description, key
        with pytest.raises(ValueError, match=r"frozen|no field"):
            config.dim = 3

    def test_asks_for_features_exactly_when_it_needs_them(self, name: str) -> None:
        data = with_features(world().data)
        if model_class(name).modalities == "required":
            with pytest.raises(FeatureError, match="mmrec encode"):
                new_model(name, data)
        else:
            new_model(name, data)

    def test_reads_features_only_if_it_says_so(self, name: str) -> None:
        if model_class(name).modalities != "none":
            pytest.skip("reads features")
        data = world().data
        without = train(new_model(name, with_features(data)), data, epochs=2)
        assert same_bits(
            without.model.state_dict(), train(new_model(name, data), data, epochs=2).model.state_dict()
        )

    def test_no_config_field_is_left_unread(self, name: str) -> None:
        kind, data = model_class(name), world().data
        read: set[str] = set()
        for mode in modes(model_class(name)):
            model = kind(Recorder(kind.config_type(**mode), read), data)
            if kind.batches is None:
                model.fit(data)
            else:
                begin_epoch(model, 0)
                model.loss(next(iter(batches(model, data, 64, 0))))
            all_scores(model, data)
        assert read == set(kind.config_type.model_fields)


@each_trained
class TestTraining:
    def test_loss_falls(self, name: str) -> None:
        if name in NO_FALL:
            pytest.skip(NO_FALL[name])
        data, mode = world().data, FALLING.get(name)
        losses = (train(new_model(name, data, **mode), data) if mode else learned(name)).losses
        assert np.isfinite(losses).all()
        assert np.mean(losses[-3:]) < 0.7 * losses[0]

    def test_every_parameter_gets_a_gradient(self, name: str) -> None:
        data = world().data
        for mode in modes(model_class(name)):
            model = new_model(name, data, **mode)
            begin_epoch(model, 0)
            for batch in batches(model, data, 10_000, 0):
                torch.stack(list(model.loss(batch).values())).sum().backward()
            for key, parameter in model.named_parameters():
                assert parameter.grad is not None, (mode, key)
                assert torch.isfinite(parameter.grad).all(), (mode, key)
                inert = re.fullmatch(CANCELLED.get(name, "-"), key) is not None
                assert (parameter.grad.abs().max() > 1e-7) != inert, (mode, key)

    def test_loss_gives_named_scalars_that_add_up(self, name: str) -> None:
        data = world().data
        model = new_model(name, data)
        begin_epoch(model, 0)
        terms = model.loss(next(iter(batches(model, data, 64, 0))))
        assert terms
        for key, term in terms.items():
            assert isinstance(key, str)
            assert term.shape == ()
            assert torch.isfinite(term)

    def test_a_batch_of_one_pair(self, name: str) -> None:
        data = world().data
        model = new_model(name, data)
        optimizer = torch.optim.Adam(model.parameters())
        begin_epoch(model, 0)
        batch = next(iter(batches(model, data, 1, 0)))
        assert np.isfinite(step(model, optimizer, batch))
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())

    def test_a_loss_in_bfloat16_comes_near_the_one_in_float32(self, name: str) -> None:
        data, totals = world().data, []
        for enabled in (False, True):
            model = new_model(name, data)
            begin_epoch(model, 0)
            batch = next(iter(batches(model, data, 64, 0)))
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                total = torch.stack([term.float() for term in model.loss(batch).values()]).sum()
            total.backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            assert all(torch.isfinite(gradient).all() for gradient in gradients)
            totals.append(total.item())
        assert totals[1] == pytest.approx(totals[0], rel=0.05)

    def test_same_bits_on_two_threads(self, name: str) -> None:
        torch.set_num_threads(2)  # conftest.py puts the number back
        one, two = (train_two_steps(name, wide_world()) for _ in range(2))
        assert same_bits(one, two)

    @pytest.mark.gpu
    def test_a_step_on_cuda_equals_one_on_the_cpu(self, name: str) -> None:
        data, results = world().data, []
        for device in ("cpu", "cuda"):
            model = new_model(name, data).to(device)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            begin_epoch(model, 0)
            loss = step(model, optimizer, next(iter(batches(model, data, 64, 0))).to(device))
            results.append((loss, all_scores(model, data).cpu()))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
        assert_close(results[1][1], results[0][1], 1e-4)


@cache
def wide_world() -> TrainingData:
    """Large enough for torch to spread its work over threads, with users who come up often in a batch."""
    rng = np.random.default_rng(0)
    users, items = rng.zipf(1.3, 30_000) % 2000, rng.zipf(1.2, 30_000) % 1500
    pairs = np.unique(np.stack([users, items], 1), axis=0)
    pairs = pairs[rng.permutation(len(pairs))]
    tables = planted_blocks(n_users=2, n_items=1500, dim=64).data
    train = Histories.from_pairs(pairs[:, 0], pairs[:, 1], 2000)
    return TrainingData(2000, 1500, train, tables.features, codes={"items": block_codes(1500, 2000)})


def train_two_steps(name: str, data: TrainingData) -> dict[str, Tensor]:
    model = new_model(name, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    begin_epoch(model, 0)
    reads_items = hasattr(model, "max_length") or hasattr(model, "max_items")
    size = 64 if reads_items else 2048  # users have hundreds of items here
    for number, batch in enumerate(batches(model, data, size, 0)):
        step(model, optimizer, batch)
        if number == 1:
            break
    return {**model.state_dict(), "scores": scoring(model, data.train, k=20)(np.arange(50)).clone()}


@each_model
class TestWhatIsLearned:
    def test_withheld_item_ranks_first(self, name: str) -> None:
        if name in IMPERSONAL:
            pytest.skip("not personal")
        planted = world()
        users = np.arange(planted.data.n_users)
        score = scoring(learned(name).model, planted.data.train)
        first = rank(score, users, planted.data.n_items, 1, exclude=planted.data.train).items[:, 0]
        assert first.tolist() == planted.withheld.tolist()

    def test_same_seed_same_bits_other_seed_other_bits(self, name: str) -> None:
        data = world().data
        one, two, other = (train(new_model(name, data, seed=s), data, epochs=2, seed=s) for s in (4, 4, 5))
        assert one.losses == two.losses
        assert same_bits(one.model.state_dict(), two.model.state_dict())
        assert torch.equal(all_scores(one.model, data), all_scores(two.model, data))
        if model_class(name).batches is not None:
            assert not same_bits(one.model.state_dict(), other.model.state_dict())

    def test_building_leaves_the_global_generator_alone(self, name: str) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        new_model(name, world().data, seed=3)
        assert torch.equal(before, torch.get_rng_state())

    def test_cold_items_score_better_than_chance_where_declared(self, name: str) -> None:
        planted = world(n_items=28, cold_items=8)
        if not model_class(name).cold_items:
            pytest.skip("declares that it cannot")
        wanted = torch.arange(planted.data.n_users)[:, None] % 2 == torch.from_numpy(planted.cold) % 2
        best = 0.0
        for mode in modes(model_class(name)):  # some need a mode for it
            trained = train(new_model(name, planted.data, **mode), planted.data)
            scores = all_scores(trained.model, planted.data)[:, planted.cold]
            best = max(best, area_under_curve(scores, wanted))
            if best > 0.9:
                return
        assert best > 0.9


@each_model
class TestSaving:
    def test_saved_and_loaded_scores_are_the_same(self, name: str, tmp_path: Path) -> None:
        data = world().data
        for mode in modes(model_class(name)):
            model = train(new_model(name, data, **mode), data, epochs=2).model
            file = tmp_path / "model.safetensors"
            save_tensors(file, model.state_dict(), {"epoch": 2})
            state, metadata = load_tensors(file)
            fresh = new_model(name, data, seed=1, **mode)
            restore(fresh, state, file)
            assert metadata == {"epoch": 2}
            assert torch.equal(all_scores(model, data), all_scores(fresh, data)), mode

    def test_tensors_of_another_catalogue_are_refused(self, name: str, tmp_path: Path) -> None:
        if model_class(name).batches is None:
            pytest.skip("tables take their size from what was saved")
        state = new_model(name, world().data).state_dict()
        with pytest.raises(NotFittedError, match="train again"):
            restore(new_model(name, world(n_users=26, n_items=28, cold_items=8).data), state, tmp_path / "x")


@each_model
class TestScoring:
    def test_a_batch_equals_one_by_one(self, name: str) -> None:
        data = world().data
        score = scoring(learned(name).model, data.train)
        together = all_scores(learned(name).model, data)
        assert together.shape == (data.n_users, data.n_items)
        scale = max(1.0, float(together[together.isfinite()].abs().max()))  # sums of large terms cancel
        for user in range(data.n_users):
            assert_close(score(np.array([user])) / scale, together[user : user + 1] / scale, 1e-6)
        ids = np.array([5, 0, 5, 17])
        assert_close(score(ids) / scale, together[torch.from_numpy(ids)] / scale, 1e-6)

    def test_scores_belong_to_evaluation(self, name: str) -> None:
        data = world().data
        model = train(new_model(name, data), data, epochs=2).model
        before = all_scores(model, data)
        if hasattr(model, "on_epoch"):
            begin_epoch(model, 99)
        after = all_scores(model, data)
        assert torch.equal(before, after)
        assert not after.requires_grad
        assert not model.training

    def test_scores_may_be_overwritten(self, name: str) -> None:
        data = world().data
        score = scoring(learned(name).model, data.train)
        expected = all_scores(learned(name).model, data)
        score(np.arange(data.n_users)).fill_(-torch.inf)
        assert torch.equal(score(np.arange(data.n_users)), expected)

    def test_vectors_are_the_scores(self, name: str) -> None:
        if contract_of(model_class(name)) != "retriever":
            pytest.skip("no vectors")
        data = world().data
        model = learned(name).model
        model.eval()
        with torch.no_grad():
            vectors = model.vectors()
            queries = vectors.users(Users.of(data.train, np.array([3, 1])))
        assert vectors.items.shape == (data.n_items, queries.shape[1])
        assert_close(queries @ vectors.items.T, all_scores(model, data)[[3, 1]], 1e-6)

    def test_allow_and_deny_lists(self, name: str) -> None:
        data = world().data
        score = scoring(learned(name).model, data.train)
        users, scores = np.arange(data.n_users), all_scores(learned(name).model, data)
        allow, deny = np.arange(0, data.n_items, 3), np.arange(0, data.n_items, 2)
        lists = rank(score, users, data.n_items, 6, exclude=data.train, allow=allow, deny=deny).items
        for user in users:
            permitted = set(allow.tolist()) - set(deny.tolist()) - set(data.train[user].tolist())
            expected = sorted(permitted, key=lambda item, user=user: (-scores[user, item].item(), item))[:6]
            assert [item for item in lists[user].tolist() if item >= 0] == expected

    def test_a_user_without_history(self, name: str) -> None:
        data = world().data
        train_pairs = data.train.select(np.arange(data.n_users))
        offsets = np.append(train_pairs.offsets, train_pairs.offsets[-1])
        longer = TrainingData(
            data.n_users + 1,
            data.n_items,
            Histories(offsets, train_pairs.items),
            data.features,
            codes={"items": block_codes(data.n_items, data.n_users + 1)},
        )
        scores = all_scores(train(new_model(name, longer), longer, epochs=2).model, longer)
        assert torch.isfinite(scores).all()


@each_model
class TestMissingModalities:
    def test_some_items_lack_image_or_text(self, name: str) -> None:
        planted = world(missing=0.3)
        trained = learned(name, missing=0.3)
        assert np.isfinite(trained.losses).all()
        scores = all_scores(trained.model, planted.data)
        assert torch.isfinite(scores).all()
        if name not in IMPERSONAL:
            score = scoring(trained.model, planted.data.train)
            users = np.arange(planted.data.n_users)
            first = rank(score, users, planted.data.n_items, 1, exclude=planted.data.train).items[:, 0]
            assert (first == planted.withheld).mean() > 0.9

    def test_some_items_lack_both(self, name: str) -> None:
        planted = world(missing=0.7, n_items=28, cold_items=8)
        lacking = ~np.logical_or(*(table.present for table in planted.data.features.values()))
        assert lacking.sum() >= 8
        for mode in modes(model_class(name)):
            trained = train(new_model(name, planted.data, **mode), planted.data, epochs=2)
            assert np.isfinite(trained.losses).all()
            assert torch.isfinite(all_scores(trained.model, planted.data)).all()
            assert all(torch.isfinite(parameter).all() for parameter in trained.model.parameters())

    @pytest.mark.parametrize("modality", ["text", "image"])
    def test_a_single_modality(self, name: str, modality: str) -> None:
        data = with_features(world(missing=0.3).data, modality)
        trained = train(new_model(name, data), data, epochs=3)
        assert torch.isfinite(all_scores(trained.model, data)).all()
