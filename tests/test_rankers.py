"""Rankers from rows to a second stage: trained, interrupted, evaluated, calibrated, put behind a retriever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mmrec.calibrate import Calibration
from mmrec.click_metrics import click_metrics
from mmrec.click_plots import plot_evaluation
from mmrec.config import load_config
from mmrec.data.dataset import Dataset
from mmrec.data.rows.candidates import CandidateRows
from mmrec.data.rows.catalogue import rows_from_dataset
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.split import split
from mmrec.errors import ConfigError, DataError
from mmrec.evaluate import evaluate
from mmrec.evaluate_rows import score_rows
from mmrec.metrics import user_metrics
from mmrec.recommend import recommend
from mmrec.rerank import evaluate_reranked
from mmrec.runs import LAST, Run, load_tensors
from mmrec.train import train
from tests.command_line import Command
from tests.tastes import N_ITEMS, make_tastes, ranker_config


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_tastes(tmp_path_factory.mktemp("tastes") / "shop")


@pytest.fixture(scope="module")
def rows(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RowDataset:
    folder = tmp_path_factory.mktemp("rows")
    return rows_from_dataset(shop, folder / "rows", negatives=3, history=8, show_progress=False)


def popularity_of(shop: Dataset, to: Path) -> Run:
    config = {"model": "popularity", "data": str(shop.path), "evaluate": {"ks": [5, 10]}}
    return train(config, run=to, show_progress=False)


@pytest.fixture(scope="module")
def ranker(rows: RowDataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("ranker")
    return train(ranker_config(rows), run=folder / "din", show_progress=False)


class TestTraining:
    def test_tells_clicks_apart_and_keeps_what_it_found(self, ranker: Run, rows: RowDataset) -> None:
        document = json.loads((ranker.path / "valid.json").read_text())
        table = pd.read_parquet(ranker.path / "per_row-valid.parquet")
        assert ranker.config.train.monitor == "auc"
        assert document["n_rows"] == len(table) == len(rows.rows("valid"))
        assert document["metrics"]["auc"] > 0.75
        plain = click_metrics(*(table[name].to_numpy() for name in ("label", "logit", "group")))
        assert {name: document["metrics"][name] for name in plain} == pytest.approx(plain)
        assert document["metrics"]["logloss_calibrated"] <= document["metrics"]["logloss"] + 1e-6
        calibration = Calibration.load(ranker.path)
        assert table["probability"].to_numpy() == pytest.approx(
            calibration.probabilities(table["logit"].to_numpy()), abs=1e-6
        )

    def test_interrupted_at_any_step_and_resumed_gives_the_same_bits(
        self, rows: RowDataset, tmp_path: Path
    ) -> None:
        changes: dict[str, Any] = {
            "embedding_decay": 0.01,
            "schedule": "plateau",
            "lr_decay": 0.5,
            "clip_norm": 1.0,
            "checkpoint_seconds": 0.0,
        }
        config = ranker_config(rows, **changes)
        whole = train(config, run=tmp_path / "whole", show_progress=False)

        def stop(epoch: int, value: float) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(config, run=tmp_path / "parts", show_progress=False, on_validation=stop)
        resumed = train(config, run=tmp_path / "parts", resume=True, show_progress=False)
        for file in ("checkpoint/best.safetensors", LAST, "per_row-valid.parquet"):
            assert (whole.path / file).read_bytes() == (resumed.path / file).read_bytes()

    def test_decay_reaches_the_tables_that_were_saved(self, rows: RowDataset, tmp_path: Path) -> None:
        norms = []
        for decay in (0.0, 1.0):
            config = ranker_config(rows, "fm", embedding_decay=decay)
            run = train(config, run=tmp_path / f"decay-{decay}", show_progress=False)
            state, _ = load_tensors(run.path / "checkpoint/best.safetensors")
            norms.append(torch.linalg.vector_norm(state["inputs.table.weight"]).item())
        assert norms[1] < 0.7 * norms[0]

    def test_a_plateau_lowers_the_learning_rate(self, rows: RowDataset) -> None:
        from mmrec.optimizers import learning_rate

        settings = load_config(ranker_config(rows, schedule="plateau", lr_decay=0.5)).train
        assert [learning_rate(settings, 7, reductions) for reductions in range(3)] == [0.02, 0.01, 0.005]

    @pytest.mark.parametrize("mode", ["shuffled", "none"])
    def test_histories_can_be_taken_away_in_training_and_evaluation(
        self, mode: str, rows: RowDataset, ranker: Run, tmp_path: Path
    ) -> None:
        run = train({**ranker_config(rows), "histories": mode}, run=tmp_path / mode, show_progress=False)
        (real,) = rows.rows("valid").batches(10_000)
        (shown,) = Run(run.path).split(rows).valid.batches(10_000)
        if mode == "none":
            assert not shown.values["history"].any()
        else:
            assert not torch.equal(shown.values["history"], real.values["history"])
            assert torch.equal(shown.values["history"].unique(), real.values["history"].unique())
        model = run.model(run.training_data(rows, run.split(rows)))
        logits = pd.read_parquet(run.path / "per_row-valid.parquet")["logit"]
        with torch.no_grad():
            assert logits.to_numpy() == pytest.approx(model.score(shown).numpy(), abs=1e-6)
            assert logits.to_numpy() != pytest.approx(model.score(real).numpy(), abs=1e-3)


class TestEvaluation:
    def test_test_rows_are_read_with_the_calibration_of_validation(
        self, rows: RowDataset, tmp_path: Path, mmrec: Command
    ) -> None:
        run = train(ranker_config(rows, "lr"), run=tmp_path / "lr", show_progress=False)
        before = Calibration.load(run.path)
        document = evaluate(run, "test")
        table = pd.read_parquet(run.path / "per_row.parquet")
        assert Calibration.load(run.path) == before
        assert document["n_rows"] == len(table) == len(rows.rows("test"))
        assert document["protocol"]["split_hash"] == rows.split().hash
        opened = Run(run.path).manifest["test_opened"]
        assert opened[0]["metrics"] == document["metrics"]
        with pytest.raises(ConfigError, match="no mask for rows"):
            evaluate(run, "test", mask="train")
        assert mmrec("evaluate", run.path, "--split", "valid", "--plot").code == 0
        assert (run.path / "reliability-valid.png").read_bytes().startswith(b"\x89PNG")


class TestBadInput:
    def test_a_ranker_needs_rows_and_the_others_do_not(self, rows: RowDataset, shop: Dataset) -> None:
        with pytest.raises(ConfigError, match="mmrec data rows"):
            train("din", shop, show_progress=False)
        with pytest.raises(ConfigError, match="a dataset of users and items for bpr"):
            train("bpr", rows, show_progress=False)

    def test_another_metric_to_choose_by(self, rows: RowDataset) -> None:
        with pytest.raises(ConfigError, match="did you mean 'auc'"):
            train(ranker_config(rows, monitor="uac"), show_progress=False)

    def test_a_ranker_recommends_nothing_alone(self, ranker: Run) -> None:
        with pytest.raises(ConfigError, match="--rerank"):
            recommend(ranker, "user-0003")


class TestSecondStage:
    def test_equals_ordering_the_candidates_by_hand(
        self, ranker: Run, rows: RowDataset, shop: Dataset, tmp_path: Path
    ) -> None:
        first = popularity_of(shop, tmp_path / "first")
        document = evaluate_reranked(first, ranker, "valid", candidates=15)
        parts = shop.split()
        alone = evaluate(first, "valid")
        assert document["retriever"] == pytest.approx(alone["metrics"])
        order = np.argsort(-np.bincount(parts.train.items, minlength=N_ITEMS), kind="stable")
        model = ranker.model(ranker.training_data(rows, rows.split()))
        in_time = shop.in_time(parts.train)
        candidates = CandidateRows.of(rows)
        found = []
        table = pd.read_parquet(first.path / "rerank" / "din" / "per_user-valid.parquet")
        for user in table["user"]:
            seen = set(parts.train[user].tolist())
            items = np.array([item for item in order if item not in seen][:15])
            logits = score_rows(model, candidates.rows(np.full(15, user), items, in_time))
            ranked = sorted(zip(-logits, items, strict=True))
            held = set(parts.valid[user].tolist())
            hits = np.array([[item in held for _, item in ranked]])
            k = min(first.config.evaluate.ks)
            found.append(user_metrics(hits, np.array([len(held)]), [k])[f"recall@{k}"][0])
        assert table[f"recall@{k}"].to_numpy() == pytest.approx(np.array(found))
        gain = document["gain"][f"recall@{k}"]
        assert gain["mean"] == pytest.approx(
            document["metrics"][f"recall@{k}"] - document["retriever"][f"recall@{k}"]
        )
        assert gain["low"] <= gain["mean"] <= gain["high"]

    def test_lifts_a_weak_first_stage(
        self, ranker: Run, shop: Dataset, tmp_path: Path, mmrec: Command
    ) -> None:
        first = popularity_of(shop, tmp_path / "first")
        arguments = [
            "evaluate",
            str(first.path),
            "--rerank",
            str(ranker.path),
            "--candidates",
            "40",
            "--split",
            "test",
        ]
        refused = mmrec(*arguments, "--plot")
        assert refused.code == 2
        assert "draw the ranker's clicks alone" in refused.err
        document = mmrec(*arguments, "--json").document
        assert document["gain"]["recall@10"]["low"] > 0
        assert Run(first.path).manifest["test_opened"][0]["ranker"] == str(ranker.path)
        assert Run(ranker.path).manifest["test_opened"][-1]["retriever"] == str(first.path)

    def test_refuses_a_ranker_of_another_split(self, shop: Dataset, ranker: Run, tmp_path: Path) -> None:
        shutil.copytree(shop.path, tmp_path / "shop")
        shop = Dataset(tmp_path / "shop")
        split(shop, "random-rows", seed=5, overwrite=True)
        first = popularity_of(shop, tmp_path / "first")
        with pytest.raises(DataError, match="may know what is held out"):
            evaluate_reranked(first, ranker, "valid", candidates=20)
        with pytest.raises(ConfigError, match="at least"):
            evaluate_reranked(first, ranker, "valid", candidates=2)
        with pytest.raises(ConfigError, match="which scores no rows"):
            evaluate_reranked(first, first, "valid", candidates=20)
        evaluate(first, "valid")
        with pytest.raises(ConfigError, match="no --plot"):
            plot_evaluation(first.path, "valid")
