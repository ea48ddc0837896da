"""RecBole's models in this package's training loop, on its splits, under its evaluator: ``model: recbole:BPR``.

Taken from RecBole are its configs, its dataset class and its models; never its quick start, trainer, data loaders
or samplers. What RecBole 1.2.1 expects of its surroundings (names that NumPy has dropped, the command line, global
seeds) is supplied here and undone after each call. Internal ids are shifted by one, as RecBole pads with id 0.

Differences to a run of RecBole itself: batches and negatives are drawn by :mod:`mmrec.data.batches` (a negative is
an item that occurs in training and that the user lacks), the optimiser is that of ``train:``, and the catalogue
holds all items of the dataset. RecBole scores items without training interactions by their initial values. At test
as at validation a sequential model reads the training items only; RecBole would add the validation items.
"""

from __future__ import annotations

import importlib
import importlib.util
import random
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from pydantic import Field, create_model
from scipy.sparse import dok_matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from mmrec.data.batches import PairBatch, SequenceBatch, UserBatch, last_items
from mmrec.data.dataset import TrainingData
from mmrec.errors import ConfigError, did_you_mean
from mmrec.models.contracts import ModelConfig, Users

PREFIX = "recbole:"
VERSION = "1.2.1"
FAMILIES = ("general", "context_aware", "sequential", "knowledge_aware", "exlib")
USER, ITEM, LABEL, LENGTH = "user_id", "item_id", "label", "item_length"
NEGATIVE, SEQUENCE = f"neg_{ITEM}", f"{ITEM}_list"
INSTALL = "pip install 'mmrec[recbole]' (Python 3.11; RecBole asks for a ray that newer Pythons do not have)"
ROWS = 1 << 16  # (user, item) rows scored at once by models that cannot rank the catalogue themselves

CLOSED = ("NCEPLRec",)  # computed while they are built, though not declared so
# trained on users, not on pairs
WHOLE_USERS = ("CDAE", "DiffRec", "ENMF", "MacridVAE", "MultiDAE", "MultiVAE")
LABELLED_SEQUENCES = ("DIN",)  # sequential and trained on labelled rows
COUNTERS = ("update",)  # steps done, by which some models anneal a weight
STATE = ("Lt_history", "Lt_count")  # tensors that training changes and RecBole's own checkpoints lack
CACHES = ("restore_user_e", "restore_item_e", "i_embedding")  # computed for one evaluation
UNLISTED: dict[str, dict[str, Any]] = {  # hyper-parameters that RecBole keeps outside the model's own YAML
    "LightGCN": {"require_pow": False},
    "SimpleX": {"require_pow": False},
}
NUMPY_NAMES = {
    "bool": np.bool_, "int": np.int64, "float": np.float64, "complex": np.complex128, "object": np.object_,
    "str": np.str_, "long": np.int64, "unicode": np.str_, "float_": np.float64, "complex_": np.complex128,
    "unicode_": np.str_, "bool8": np.bool_,
}  # fmt: skip

_ATTRIBUTES = "it reads attributes of items, which this bridge does not hand over"
_TRAINER = "it is trained in stages by a trainer of its own"
REFUSED = {
    **dict.fromkeys(("FDSA", "GRU4RecF", "GRU4RecKG", "KSR", "SASRecF"), _ATTRIBUTES),
    **dict.fromkeys(("LDiffRec", "NCL", "RaCT", "RecVAE", "S3Rec"), _TRAINER),
    "FEARec": "it reads RecBole's own table of augmented sequences",
    "DIEN": "it needs a sequence of negatives for each sequence",
    "LINE": "it walks through a shuffled list from step to step, which no checkpoint could hold",
    "Pop": "it counts an item once per batch; popularity is this package's own",
    "Random": "its scores are drawn anew whenever they are asked for",
}
FIXED: dict[str, Any] = {  # settings that would filter the data, read files or ask for columns
    "eval_args": {"split": {"RS": [1, 0, 0]}, "order": "TO", "mode": "full"}, "metrics": ["Recall"],
    "valid_metric": "Recall@10", "repeatable": True, "threshold": None, "load_col": None,
    "additional_feat_suffix": None, "filter_inter_by_user_or_item": False, "user_inter_num_interval": None,
    "item_inter_num_interval": None, "data_path": "", "show_progress": False,
}  # fmt: skip


# --- Repairs: what RecBole needs of the process, and what it would leave behind there


@contextmanager
def _numpy_names() -> Iterator[None]:
    """NumPy with the names it has dropped."""
    before = {name: vars(np)[name] for name in NUMPY_NAMES if name in vars(np)}
    for name, value in NUMPY_NAMES.items():
        setattr(np, name, value)
    try:
        yield
    finally:
        for name in NUMPY_NAMES:
            if name in before:
                setattr(np, name, before[name])
            else:
                delattr(np, name)


@contextmanager
def _sparse_update() -> Iterator[None]:
    """SciPy's dictionary matrices with the method ``_update`` that they had until SciPy 1.13."""

    def update(matrix: Any, entries: Mapping[Any, Any]) -> None:
        matrix._dict.update(entries)

    kind: Any = dok_matrix
    if hasattr(kind, "_update"):
        yield
        return
    kind._update = update
    try:
        yield
    finally:
        del kind._update


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Generators of NumPy and Python that follow torch's, so that its saved state is all that resuming needs."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 what RecBole draws from
    seed = int(torch.randint(2**32, ()))
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


class _SteadyGradients(TorchFunctionMode):
    """Rows taken by ``table[ids]`` get a gradient that does not depend on thread timing (:func:`mmrec.nn.gather`)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__:
            table, ids = args
            if (
                isinstance(ids, Tensor)
                and ids.dtype == torch.int64
                and table.requires_grad
                and table.ndim == 2
            ):
                return F.embedding(ids, table)
        return func(*args, **(kwargs or {}))


@contextmanager
def _inside() -> Iterator[None]:
    """The surroundings in which RecBole's code runs."""
    with ExitStack() as stack:
        stack.enter_context(_numpy_names())
        stack.enter_context(_sparse_update())
        stack.enter_context(_own_randomness())
        stack.enter_context(_SteadyGradients())
        yield


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number; RecBole would teach that to everybody's loader."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@cache
def _settings_class() -> Any:
    """RecBole's config without its ways into the process: command line, environment, NumPy, ``eval`` of strings."""
    from recbole.config import Config

    class Settings(Config):  # type: ignore[misc]
        def compatibility_settings(self) -> None: ...

        def _load_cmd_line(self) -> dict[str, Any]:
            return {}

        def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
            return config_dict

        def _build_yaml_loader(self) -> Any:
            return _Loader

        def _init_device(self) -> None:  # built on the CPU and moved by the training loop
            self.final_config_dict |= {"device": torch.device("cpu"), "single_spec": True, "local_rank": 0}

    return Settings


@cache
def _dataset_class() -> Any:
    """RecBole's dataset, filled from memory, with ids that are the internal ones plus one."""
    from recbole.data.dataset import Dataset
    from recbole.data.interaction import Interaction
    from recbole.utils import FeatureSource, FeatureType

    class Given(Dataset):  # type: ignore[misc]
        def __init__(self, config: Any, data: TrainingData) -> None:
            self.given = data
            super().__init__(config)
            del self.given

        def _load_data(self, token: str, dataset_path: str) -> None:
            train = self.given.train
            pairs = {USER: torch.from_numpy(train.users + 1), ITEM: torch.from_numpy(train.items + 1)}
            self.inter_feat, self.user_feat, self.item_feat = Interaction(pairs), None, None
            for field, source in ((USER, FeatureSource.USER_ID), (ITEM, FeatureSource.ITEM_ID)):
                self.set_field_property(field, FeatureType.TOKEN, source, 1)
            if self.config["MODEL_TYPE"].name == "SEQUENTIAL":
                length = self.config["MAX_ITEM_LIST_LENGTH"]
                self.set_field_property(SEQUENCE, FeatureType.TOKEN_SEQ, FeatureSource.INTERACTION, length)

        def _data_filtering(self) -> None: ...

        def _fill_nan(self) -> None: ...

        def _remap_ID_all(self) -> None:
            for field, n in ((USER, self.given.n_users), (ITEM, self.given.n_items)):
                names = np.array(["[PAD]", *map(str, range(n))])
                self.field2id_token[field] = names
                self.field2token_id[field] = {name: number for number, name in enumerate(names.tolist())}
            self.field2id_token[SEQUENCE] = self.field2id_token[ITEM]

    return Given


# --- The models


class RecBoleModel(nn.Module):
    """A model of RecBole; its subclasses are made by :func:`model_class`, one for each model.

    Source: Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation
    Algorithms", CIKM 2021.

    Raises:
        ConfigError: RecBole refuses these hyper-parameters.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[ModelConfig]]
    batches: str | None
    modalities: ClassVar = "none"
    cold_items: ClassVar = False
    knows_users: ClassVar = True
    steps: Tensor

    def __init__(self, config: ModelConfig, data: TrainingData) -> None:
        super().__init__()
        params = config.model_dump()
        kind = _find(self.name)
        self.batches = _batch_kind(kind, params)
        self.labelled = _is_labelled(kind)
        self.max_length = params.get("MAX_ITEM_LIST_LENGTH", 0)
        self.n_items = data.n_items
        if self.max_length:
            _ = data.sequences  # raises where the order of time is not known
        with _inside():
            self.settings, self.dataset, self.transform, self.inner = _build(kind, params, self.batches, data)
        for name in STATE:
            if name in vars(self.inner):
                self.inner.register_buffer(name, vars(self.inner).pop(name))
        self.counters = [name for name in COUNTERS if name in vars(self.inner)]
        if self.counters:
            self.register_buffer("steps", torch.zeros(len(self.counters), dtype=torch.int64))

    def fit(self, data: TrainingData) -> None:
        """Nothing is left to do: RecBole computes its closed forms while they are built."""

    def loss(self, batch: PairBatch | UserBatch | SequenceBatch) -> dict[str, Tensor]:
        """RecBole's loss of a batch; numbered terms where it has several."""
        from recbole.data.interaction import Interaction

        for name, step in zip(self.counters, self.steps.tolist() if self.counters else [], strict=True):
            setattr(self.inner, name, step)
        with _inside():
            interaction = self.transform(self.dataset, Interaction(_rows(batch, labelled=self.labelled)))
            terms = self.inner.calculate_loss(interaction)
        for place, name in enumerate(self.counters):
            self.steps[place] = getattr(self.inner, name)
        if isinstance(terms, tuple):
            return {f"loss_{number}": term.reshape(()) for number, term in enumerate(terms, start=1)}
        return {"loss": terms.reshape(())}  # several give one number in a vector

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)`` by ``full_sort_predict``, else by ``predict`` over the catalogue in blocks."""
        device = next(self.inner.parameters()).device
        rows = {USER: torch.from_numpy(users.ids) + 1}
        if self.max_length:
            items, lengths = last_items(users.histories, self.max_length)
            rows |= {SEQUENCE: items + 1, LENGTH: lengths.clamp(min=1)}
        rows = {field: values.to(device) for field, values in rows.items()}
        with torch.random.fork_rng(), _inside():
            torch.manual_seed(0)
            return self._rank_all(rows) if _ranks_all(type(self.inner)) else self._rank_blocks(rows)

    def _rank_all(self, rows: dict[str, Tensor]) -> Tensor:
        from recbole.data.interaction import Interaction

        scores: Tensor = self.inner.full_sort_predict(Interaction(rows))
        scores = scores.to(rows[USER].device).view(len(rows[USER]), -1)
        return scores[:, 1 : self.n_items + 1].float().clone(memory_format=torch.contiguous_format)

    def _rank_blocks(self, rows: dict[str, Tensor]) -> Tensor:
        from recbole.data.interaction import Interaction

        users = rows[USER]
        scores = torch.empty(len(users) * self.n_items, device=users.device)
        for start in range(0, len(scores), ROWS):
            place = torch.arange(start, min(start + ROWS, len(scores)), device=users.device)
            own = {field: values[place // self.n_items] for field, values in rows.items()}
            own[ITEM] = place % self.n_items + 1
            scores[place] = self.inner.predict(Interaction(own)).float().view(-1)
        return scores.view(len(users), self.n_items)

    def on_epoch(self, generator: torch.Generator) -> None:
        """Let models that draw a new graph for each epoch (SGL) do so, from ``generator`` alone."""
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            with _inside():
                self.inner.train()

    def train(self, mode: bool = True) -> RecBoleModel:
        """Change the mode; draws nothing, and forgets the tables that some models keep for an evaluation."""
        self.training = mode
        nn.Module.train(self.inner, mode)
        for name in CACHES:
            if name in vars(self.inner):
                setattr(self.inner, name, None)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """All parameters and buffers; tensors that share their memory (GCMC) are copied, as files hold each by itself."""
        state = super().state_dict(*args, **kwargs)
        places: set[int] = set()
        for name, tensor in state.items():
            if tensor.data_ptr() in places:
                state[name] = tensor.clone()
            places.add(tensor.data_ptr())
        return state

    def _apply(self, function: Any, recurse: bool = True) -> RecBoleModel:
        """Move also what RecBole's modules hold as plain attributes: tensors, and the name of the device."""
        super()._apply(function, recurse)  # type: ignore[no-untyped-call]
        device = next(self.inner.parameters()).device
        self.settings["device"] = device
        for module in self.inner.modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Tensor):
                    setattr(module, name, function(value))
                elif isinstance(value, torch.device):
                    setattr(module, name, device)
        return self


@cache
def model_class(name: str) -> type[RecBoleModel]:
    """The class behind ``recbole:NAME``.

    Raises:
        ConfigError: RecBole is not installed, has no such model, or the model needs what this bridge does not give.
    """
    short = name.removeprefix(PREFIX)
    kind = _find(short)
    config_type = _config_type(short, kind)
    attributes = {
        "__doc__": f"{short} of RecBole {VERSION}.",
        "__module__": __name__,
        "name": short,
        "config_type": config_type,
        "batches": _batch_kind(kind, config_type().model_dump()),
    }
    return type(f"RecBole{short}", (RecBoleModel,), attributes)


@cache
def model_names() -> dict[str, str]:
    """RecBole's models and the modules they are in, without importing them."""
    folder = _require().parent / "model"
    names = {}
    for family in FAMILIES:
        for file in sorted((folder / f"{family}_recommender").glob("[a-z]*.py")):
            for found in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE):
                if found.lower() == file.stem:
                    names[found] = f"recbole.model.{family}_recommender.{file.stem}"
    return names


def _require() -> Path:
    """RecBole's ``__init__.py``.

    Raises:
        ConfigError: Not installed.
    """
    found = importlib.util.find_spec("recbole")
    if found is None or found.origin is None:
        raise ConfigError(f"RecBole {VERSION}, for models named {PREFIX}NAME", "not installed", INSTALL)
    return Path(found.origin)


@cache
def _find(name: str) -> Any:
    """RecBole's own class."""
    names = model_names()
    if name not in names:
        known = {known.lower(): known for known in names}  # RecBole's spelling: BPR, LightGCN, xDeepFM
        hint = did_you_mean(known.get(name.lower(), name), list(names))
        raise ConfigError(f"a model of RecBole {VERSION} after {PREFIX}", repr(name), hint)
    reason = REFUSED.get(name)
    if "knowledge_aware" in names[name]:
        reason = "it needs a knowledge graph"
    if "exlib" in names[name]:
        reason = "it is a forest of decision trees of another library, trained without gradients"
    if reason is not None:
        raise ConfigError(
            f"a model that learns from users, items and their order alone after {PREFIX}",
            f"{name}: {reason}",
            "choose another one, such as recbole:LightGCN, recbole:SASRec or recbole:DeepFM",
        )
    # SINE's file has every backward pass of the process searched for NaN, which takes many times as long
    with (
        _numpy_names(),
        torch.autograd.set_detect_anomaly(
            torch.is_anomaly_enabled(), check_nan=torch.is_anomaly_check_nan_enabled()
        ),
    ):
        return getattr(importlib.import_module(names[name]), name)


def _config_type(name: str, kind: Any) -> type[ModelConfig]:
    """The keys of RecBole's own YAML of the model, with its defaults and its words about them."""
    file = _require().parent / "properties" / "model" / f"{name}.yaml"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    defaults: dict[str, Any] = yaml.load(text, Loader=_Loader) or {}
    notes = dict(re.findall(r"^(\w+):.*?#\s*(?:\([^)]*\)\s*)?(\S.*?)\s*$", text, re.MULTILINE))
    defaults |= UNLISTED.get(name, {})
    fields: dict[str, Any] = {
        key: (_annotation(value), Field(value, description=notes.get(key, f"{key} of RecBole's {name}")))
        for key, value in defaults.items()
        if key.isidentifier()  # "time-aware" of DiffRec needs times that models do not get
    }
    if _type_of(kind) == "SEQUENTIAL":
        fields["MAX_ITEM_LIST_LENGTH"] = (int, Field(50, ge=1, description="how many last items are read"))
    return create_model(f"{name}Config", __base__=ModelConfig, **fields)


def _annotation(default: Any) -> Any:
    """The type of a hyper-parameter, from its default."""
    if isinstance(default, bool | str):
        return type(default)
    if isinstance(default, int | float):
        return int | float  # RecBole writes 2 for 2.0
    return list[Any] if isinstance(default, list) else Any


def _type_of(kind: Any) -> str:
    return str(kind.type.name)


def _input_of(kind: Any) -> str | None:
    """``POINTWISE``, ``PAIRWISE`` or ``LISTWISE`` where the class says so, None where its loss decides."""
    own = getattr(kind, "input_type", None)
    return None if own is None else str(own.name)


def _is_labelled(kind: Any) -> bool:
    """Whether it is trained on rows (user, item) with a label 1 or 0."""
    if _type_of(kind) == "SEQUENTIAL":
        return kind.__name__ in LABELLED_SEQUENCES
    return _input_of(kind) == "POINTWISE"


def _batch_kind(kind: Any, params: Mapping[str, Any]) -> str | None:
    """What a model trains on, as in :data:`mmrec.data.batches.BATCHES`."""
    if _type_of(kind) == "TRADITIONAL" or kind.__name__ in CLOSED:
        return None
    if kind.__name__ in WHOLE_USERS:
        return "users"
    if _type_of(kind) != "SEQUENTIAL":
        return "pairs"
    ranked = _input_of(kind) == "PAIRWISE" or _is_labelled(kind) or params.get("loss_type") == "BPR"
    return "sequence-pairs" if ranked else "sequences"


def _ranks_all(kind: Any) -> bool:
    from recbole.model.abstract_recommender import AbstractRecommender

    return kind.full_sort_predict is not AbstractRecommender.full_sort_predict


def _build(kind: Any, params: Mapping[str, Any], batches: str | None, data: TrainingData) -> tuple[Any, ...]:
    """RecBole's config, dataset, transformation of batches (none, for most models) and model.

    Raises:
        ConfigError: It refuses the hyper-parameters, or lacks a package.
    """
    from recbole.data.transform import construct_transform

    negatives = {"distribution": "uniform", "sample_num": 1}
    given = {
        **FIXED,
        **params,
        "train_neg_sample_args": negatives if batches in ("pairs", "sequence-pairs") else None,
    }
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"recbole\.")
            settings = _settings_class()(model=kind, dataset="mmrec", config_dict=given)
            dataset, transform = _dataset_class()(settings, data), construct_transform(settings)
            return settings, dataset, transform, kind(settings, dataset)
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ConfigError(
            f"hyper-parameters that RecBole's {kind.__name__} accepts",
            " ".join(f"{type(error).__name__}: {error}".split()),
            f"its defaults: mmrec train {PREFIX}{kind.__name__} --data DATASET --dry-run",
        ) from error


def _rows(batch: PairBatch | UserBatch | SequenceBatch, *, labelled: bool) -> dict[str, Tensor]:
    """RecBole's fields of a batch; with labels the positive rows come first, then the negative ones."""
    rows = {USER: batch.users + 1}
    if isinstance(batch, UserBatch):
        return rows
    if isinstance(batch, SequenceBatch):
        rows |= {SEQUENCE: batch.items + 1, LENGTH: batch.lengths}
        positives, negatives = batch.targets, batch.negatives
    else:
        positives, negatives = batch.positives, batch.negatives
    if negatives is None:
        return rows | {ITEM: positives + 1}
    if not labelled:
        return rows | {ITEM: positives + 1, NEGATIVE: negatives + 1}
    doubled = {field: torch.cat([values, values]) for field, values in rows.items()}
    labels = torch.cat([torch.ones(len(positives)), torch.zeros(len(positives))])
    return doubled | {ITEM: torch.cat([positives, negatives]) + 1, LABEL: labels.to(positives.device)}
