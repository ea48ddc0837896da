from __future__ import annotations

import numpy as np

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.models.contracts import scoring
from mmrec.rank import rank
from tests.learning import all_scores, new_model

TRAIN = Histories.from_pairs(np.array([0, 0, 1, 2, 2, 2]), np.array([3, 1, 3, 1, 3, 4]), 4)
DATA = TrainingData(4, 6, TRAIN, {})


def test_counts_of_training_interactions() -> None:
    model = new_model("popularity", DATA)
    model.fit(DATA)
    assert all_scores(model, DATA).tolist() == [[0, 2, 0, 3, 1, 0]] * 4


def test_ties_go_to_the_lower_id_and_what_a_user_has_is_left_out() -> None:
    model = new_model("popularity", DATA)
    model.fit(DATA)
    lists = rank(scoring(model, TRAIN), np.arange(4), 6, 4, exclude=TRAIN).items
    assert lists.tolist() == [[4, 0, 2, 5], [1, 4, 0, 2], [0, 2, 5, -1], [3, 1, 4, 0]]


def test_scores_of_one_call_do_not_touch_the_next() -> None:
    model = new_model("popularity", DATA)
    model.fit(DATA)
    scoring(model, TRAIN)(np.array([0, 1])).fill_(-1)
    assert all_scores(model, DATA)[0].tolist() == [0, 2, 0, 3, 1, 0]


def test_fitting_again_starts_anew() -> None:
    model = new_model("popularity", DATA)
    model.fit(DATA)
    model.fit(DATA)
    assert all_scores(model, DATA)[0].tolist() == [0, 2, 0, 3, 1, 0]
