"""Why a user is recommended what: the factors of a model that explains itself, each in words and with its items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrec.callable_module import make_callable
from mmrec.data.dataset import Dataset
from mmrec.errors import ConfigError
from mmrec.models.contracts import Explanation, Users
from mmrec.recommend import recommend
from mmrec.registry import MODELS, model_class
from mmrec.runs import Run

make_callable(__name__, "mmrec.explain:explain")


def explain(
    run: Run | str | Path,
    users: str | Sequence[str],
    k: int = 10,
    *,
    words: int = 8,
    data: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Explain the k best items of each user, and the user's history, by the model's factors.

    An item stands with the factor that has the largest share in its score; a factor's weight is its mean share over
    the recommended items.

    Args:
        run: A run, or its folder, of a model that explains itself.
        users: One external user id or several.
        k: Recommended items per user.
        words: Words per factor; fewer come back where others are no likelier than by chance.
        data: Where the dataset is now, if it has moved.

    Returns:
        ``{"user", "factors": [{"factor", "weight", "words": [{"word", "weight"}], "recommended": [{"item", "score",
        "share"}], "history": [{"item", "share"}]}]}`` per user, the heaviest factor and the best words and items first.

    Raises:
        ConfigError: The model does not explain itself, or its features have no words; k or words below 1.
        DataError: Unknown user, or one without training items.
        NotFittedError: The run has no usable checkpoint.
    """
    run = run if isinstance(run, Run) else Run(run)
    if not hasattr(model_class(run.config.model), "explain"):
        able = ", ".join(name for name in MODELS if hasattr(model_class(name), "explain"))
        raise ConfigError(
            "a run of a model that explains itself",
            f"{run.config.model} in {run.path}, which gives scores only",
            f"train one that does: {able}",
        )
    if words < 1:
        raise ConfigError("words >= 1", str(words), "ask for at least one word")
    recommended = recommend(run, users, k, data=data)
    dataset = run.dataset(data)
    split = run.split(dataset)
    model = run.model(run.training_data(dataset, split))
    ids = np.array([dataset.user(entry["user"]) for entry in recommended], dtype=np.int64)
    with torch.no_grad():
        explanation: Explanation = model.explain(Users.of(split.train, ids))
    if not explanation.vocabulary:
        raise ConfigError(
            "features whose columns are words",
            ", ".join(run.config.features.values()),
            f"mmrec encode {dataset.path} --encoder words --name text-words, then train with text=text-words",
        )
    return [
        _describe(entry, split.train[user].tolist(), explanation, row, dataset, words)
        for row, (entry, user) in enumerate(zip(recommended, ids, strict=True))
    ]


def _describe(
    recommended: dict[str, Any],
    history: list[int],
    explanation: Explanation,
    row: int,
    dataset: Dataset,
    n_words: int,
) -> dict[str, Any]:
    shares = explanation.shares[row]
    best = [dataset.item(entry["item"]) for entry in recommended["items"]]
    weights = shares[:, best].mean(1).tolist()
    names = dataset.items["item_id"].tolist()
    chance = 1 / explanation.words[row].numel()
    factors = []
    for factor in sorted(range(len(shares)), key=lambda factor: (-weights[factor], factor)):

        def own(items: list[int], factor: int = factor) -> list[tuple[int, float]]:
            mine = [place for place, item in enumerate(items) if int(shares[:, item].argmax()) == factor]
            return [(place, float(shares[factor, items[place]])) for place in mine]

        values, columns = explanation.words[row, factor].topk(min(n_words, len(explanation.vocabulary)))
        past = sorted(own(history), key=lambda pair: -pair[1])
        factors.append(
            {
                "factor": factor,
                "weight": weights[factor],
                "words": [
                    {"word": explanation.vocabulary[column], "weight": weight}
                    for column, weight in zip(columns.tolist(), values.tolist(), strict=True)
                    if weight > chance
                ],
                "recommended": [
                    {**recommended["items"][place], "share": share} for place, share in own(best)
                ],
                "history": [{"item": names[history[place]], "share": share} for place, share in past],
            }
        )
    return {"user": recommended["user"], "factors": factors}


def render(explanations: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """The explanations as text for people, with the items' titles where they have one."""
    return "\n".join(line for explanation in explanations for line in _lines(explanation, titles))


def _lines(explanation: Mapping[str, Any], titles: Mapping[str, str]) -> Iterator[str]:
    yield f"user {explanation['user']}"
    for factor in explanation["factors"]:
        yield f"  factor {factor['factor']}, {factor['weight']:.0%} of the recommendations"
        yield f"    words        {', '.join(entry['word'] for entry in factor['words'])}"
        for part in ("recommended", "history"):
            for entry in factor[part]:
                yield f"    {part:<12} {entry['share']:>4.0%}  {entry['item']}  {titles.get(entry['item'], '')}"
