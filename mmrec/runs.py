"""A run folder: resolved config, manifest, metrics per epoch, checkpoints, results."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import mmrec
from mmrec.config import ExperimentConfig, differences, load_config, read_yaml
from mmrec.data.dataset import Dataset, Split, TrainingData, load
from mmrec.data.rows.dataset import RowDataset, RowSplit
from mmrec.data.rows.table import RowData
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.files import (
    atomic_path,
    content_hash,
    disk_errors,
    read_json,
    remove_leftovers,
    sha256_file,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from torch import Tensor

    from mmrec.codes.table import CodeTable
    from mmrec.encode.features import FeatureTable

FORMAT = 1
BEST = "checkpoint/best.safetensors"
LAST = "checkpoint/last.safetensors"
METRICS = "metrics.jsonl"
_MANIFEST = ("format", "status", "config_hash", "dataset", "split", "features", "test_opened")


class Run:
    """A run folder.

    Args:
        path: The folder.

    Raises:
        NotFittedError: No run there.
        DataError: The manifest is damaged, or the config was changed after the run began.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "manifest.json").is_file():
            raise NotFittedError(
                "a run folder with manifest.json",
                f"none in {self.path}",
                f"mmrec train CONFIG --run {self.path}",
            )
        self.manifest: dict[str, Any] = read_json(self.path / "manifest.json")
        self._check_manifest()
        document = read_yaml(self.path / "config.yaml")
        if content_hash(document) != self.manifest["config_hash"]:
            raise DataError(
                f"config.yaml of {self.path} as the run began with it",
                "it was changed since",
                "restore it, or train the changed config into another --run",
            )
        self.config: ExperimentConfig = load_config(document)

    def _check_manifest(self) -> None:
        lacking = [
            key for key in _MANIFEST if not isinstance(self.manifest, dict) or key not in self.manifest
        ]
        if lacking or self.manifest["format"] != FORMAT:
            raise DataError(
                f"the manifest of a run (format {FORMAT}) in {self.path / 'manifest.json'}",
                f"one without {', '.join(lacking)}" if lacking else f"format {self.manifest['format']}",
                "name a run folder, or train again with this version of mmrec",
            )

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.config.model} on {self.manifest['dataset']['name']}, {self.manifest['status']})"

    @property
    def finished(self) -> bool:
        """True once training has ended by itself."""
        return bool(self.manifest["status"] == "finished")

    def update(self, **changes: Any) -> None:
        """Write changed entries of the manifest."""
        self.manifest |= changes
        write_json(self.path / "manifest.json", self.manifest)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other trainings out of the folder; the lock ends with the process, however it ends.

        Raises:
            ConfigError: Another training is at work there.
        """
        import fcntl

        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{self.path} for this process alone",
                    "another training at work there",
                    "wait for it, or choose another --run",
                ) from None
            yield
        finally:
            os.close(descriptor)

    def check_config(self, config: ExperimentConfig, path: str | Path | None = None) -> None:
        """Refuse to go on with another config, or in another folder.

        Raises:
            ConfigError: They differ; where the dataset lies does not count.
        """
        changes = differences(self.config.document(), config.document() | {"data": self.config.data})
        if path is not None and Path(path).resolve() != self.path.resolve():
            changes.append(f"--run {path}")
        if changes:
            raise ConfigError(
                f"the config that the run in {self.path} began with",
                f"another one: {'; '.join(changes)}",
                "resume without these changes, or train into another --run",
            )

    def data(self, path: str | Path | None = None) -> Dataset | RowDataset:
        """What the run was trained on, checked by hash.

        Args:
            path: Where it is now, if it has moved.

        Raises:
            DataError: Not what the run was trained on.
        """
        dataset = load(path or self.manifest["dataset"]["path"])
        if dataset.hash != self.manifest["dataset"]["hash"]:
            raise DataError(
                f"the dataset {self.manifest['dataset']['name']} ({self.manifest['dataset']['hash'][:12]}…) of {self.path}",
                f"{dataset.name} ({dataset.hash[:12]}…) in {dataset.path}",
                "name the right folder with --data, or train on this dataset",
            )
        return dataset

    def dataset(self, path: str | Path | None = None) -> Dataset:
        """The dataset of users and items that the run was trained on, checked by hash.

        Args:
            path: Where it is now, if it has moved.

        Raises:
            ConfigError: The run is of a ranker, which scores rows.
            DataError: Not the dataset that the run was trained on.
        """
        dataset = self.data(path)
        if isinstance(dataset, RowDataset):
            raise ConfigError(
                "a run of a model that ranks the whole catalogue",
                f"{self.path} of {self.config.model}, which scores rows",
                "name a run of another model; mmrec evaluate RETRIEVER --rerank RANKER joins the two",
            )
        return dataset

    @overload
    def split(self, dataset: Dataset) -> Split: ...
    @overload
    def split(self, dataset: RowDataset) -> RowSplit: ...
    def split(self, dataset: Dataset | RowDataset) -> Split | RowSplit:
        """The split of the run, checked by hash.

        Raises:
            DataError: The split was made anew since.
        """
        split = open_split(self.config, dataset)
        if split.hash != self.manifest["split"]["hash"]:
            raise DataError(
                f"the split {split.name!r} the run was trained on ({self.manifest['split']['hash'][:12]}…)",
                f"another one of that name ({split.hash[:12]}…)",
                "make the old split again (its seed and protocol are in manifest.json), or train again",
            )
        return split

    @overload
    def training_data(self, dataset: Dataset, split: Split) -> TrainingData: ...
    @overload
    def training_data(self, dataset: RowDataset, split: RowSplit) -> RowData: ...
    @overload
    def training_data(
        self, dataset: Dataset | RowDataset, split: Split | RowSplit
    ) -> TrainingData | RowData: ...
    def training_data(self, dataset: Dataset | RowDataset, split: Split | RowSplit) -> TrainingData | RowData:
        """What the model was trained on, features and codes checked by hash.

        Raises:
            DataError: Features or codes were made anew since.
        """
        data = training_data(self.config, dataset, split)
        for kind, tables in (("features", data.features), ("codes", data.codes)):
            for source, table in tables.items():
                recorded = self.manifest[kind][source]["hash"]
                if table.hash != recorded:
                    raise DataError(
                        f"the {kind} {table.name!r} the run was trained on ({recorded[:12]}…)",
                        f"others of that name ({table.hash[:12]}…)",
                        "make them again as recorded in the manifest, or train again",
                    )
        return data

    def checkpoint(self) -> Path:
        """The file with the tensors of the best epoch, checked by hash once training has ended.

        Raises:
            NotFittedError: No checkpoint yet, or a damaged one.
        """
        file = self.path / BEST
        if not file.is_file():
            raise NotFittedError(
                f"a trained model in {self.path}", "no checkpoint", f"mmrec train {self.path} --resume"
            )
        recorded = self.manifest.get("checkpoint_sha256")
        if recorded is not None and sha256_file(file) != recorded:
            raise NotFittedError(
                f"the checkpoint as it was written (sha256 {recorded[:12]}…)",
                f"{file} was changed or damaged",
                "train again",
            )
        return file

    def model(self, data: TrainingData | RowData) -> Any:
        """The trained model in evaluation mode.

        Raises:
            NotFittedError: No checkpoint yet, or a damaged one.
        """
        file = self.checkpoint()
        state, _ = load_tensors(file, checked=self.manifest.get("checkpoint_sha256") is not None)
        model = build_model(self.config, data)
        restore(model, state, file)
        return model.eval()


def open_split(config: ExperimentConfig, dataset: Dataset | RowDataset) -> Split | RowSplit:
    """The split of an experiment."""
    if isinstance(dataset, RowDataset):
        return dataset.split(config.split, histories=config.histories)
    return dataset.split(config.split)


def training_data(
    config: ExperimentConfig, dataset: Dataset | RowDataset, split: Split | RowSplit
) -> TrainingData | RowData:
    """What the model of an experiment may see."""
    if isinstance(dataset, RowDataset):
        assert isinstance(split, RowSplit)
        return dataset.training_data(split, config.features, config.codes)
    assert isinstance(split, Split)
    return dataset.training_data(split, config.features, config.codes)


def build_model(config: ExperimentConfig, data: TrainingData | RowData) -> Any:
    """A new model; its initial values depend on the seed alone and the global generator is left as it was."""
    import torch

    from mmrec.registry import model_class

    kind = model_class(config.model)
    with torch.random.fork_rng():
        torch.manual_seed(config.train.seed)
        return kind(kind.config_type(**config.params), data)


def restore(model: Any, state: dict[str, Tensor], file: Path) -> None:
    """Put saved tensors into a model.

    Raises:
        NotFittedError: They do not fit.
    """
    import torch

    buffers = dict(model.named_buffers())
    for name, tensor in state.items():  # closed forms learn the size of their tables from the data
        if model.batches is None and name in buffers and buffers[name].shape != tensor.shape:
            setattr(model, name, torch.empty_like(tensor))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise NotFittedError(f"tensors of {type(model).__name__} in {file}", reason, "train again") from None


def save_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON metadata atomically; the same content gives the same bytes."""
    import safetensors.torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    sealed = metadata | {"sha256": _digest(contiguous, metadata)}
    # One key only: safetensors writes several in any order.
    content = safetensors.torch.save(contiguous, {"mmrec": json.dumps(sealed, sort_keys=True)})
    with atomic_path(file) as temporary:
        temporary.write_bytes(content)


def _digest(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """SHA-256 of all that a checkpoint holds: safetensors itself does not notice a flipped bit."""
    import torch

    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_tensors(file: Path, *, checked: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Args:
        file: The checkpoint.
        checked: Its content is known to be intact.

    Raises:
        NotFittedError: Missing or damaged.
    """
    import safetensors

    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 not a dict
            metadata = json.loads((opened.metadata() or {})["mmrec"])
        written = metadata.pop("sha256", None)
        if not checked and written != _digest(tensors, metadata):
            raise ValueError("its content is not what was written (SHA-256 differs)")
        return tensors, metadata
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise NotFittedError(
            f"an intact checkpoint {file}", f"{error}", f"remove {file.parent.parent} and train again"
        ) from None


def check_free(path: Path, config: ExperimentConfig) -> None:
    """Check that a run can be made in ``path``.

    Raises:
        ConfigError: There is a run, or something else.
    """
    if (path / "manifest.json").exists():
        status = read_json(path / "manifest.json")["status"]
        raise ConfigError(
            "a new run folder",
            f"{path} holds a run ({status})",
            f"mmrec train {path} --resume, or another --run",
        )
    if path.exists() and not _is_free(path, config):
        raise ConfigError("a new or empty run folder", f"{path} with other files", "choose another --run")


def create_run(
    path: Path,
    config: ExperimentConfig,
    dataset: Dataset | RowDataset,
    split: Split | RowSplit,
    data: TrainingData | RowData,
) -> Run:
    """Write config and manifest of a new run; the manifest comes last.

    Raises:
        ConfigError: The folder is not empty.
    """
    check_free(path, config)
    write_text(path / "config.yaml", config.to_yaml())
    manifest = {
        "format": FORMAT,
        "mmrec": mmrec.__version__,
        "created": now(),
        "status": "started",
        "config_hash": content_hash(config.document()),
        "dataset": {"name": dataset.name, "path": str(dataset.path.resolve()), "hash": dataset.hash},
        "split": {"name": split.name, "hash": split.hash, "protocol": split.manifest["protocol"]},
        "features": _tables(data.features),
        **({"codes": _codes(data.codes)} if data.codes else {}),
        "environment": environment(),
        "test_opened": [],
    }
    write_json(path / "manifest.json", manifest)
    return Run(path)


def _tables(tables: Mapping[str, FeatureTable] | Mapping[str, CodeTable]) -> dict[str, dict[str, str]]:
    return {source: {"name": table.name, "hash": table.hash} for source, table in tables.items()}


def _codes(tables: Mapping[str, CodeTable]) -> dict[str, dict[str, Any]]:
    """Also how healthy they are, which a comparison of generators shows."""
    entries: dict[str, dict[str, Any]] = {source: dict(entry) for source, entry in _tables(tables).items()}
    for source, table in tables.items():
        if (health := table.health) is not None:
            entries[source]["health"] = health
    return entries


def _is_free(path: Path, config: ExperimentConfig) -> bool:
    """True for an empty folder, and for what a kill before the manifest was written leaves."""
    if not path.is_dir():
        return False
    remove_leftovers(path)
    names = [file.name for file in path.iterdir()]
    text = (path / "config.yaml").read_text(encoding="utf-8") if names == ["config.yaml"] else None
    return not names or text == config.to_yaml()


def default_run_path(config: ExperimentConfig, dataset: Dataset | RowDataset) -> Path:
    """``runs/DATASET/MODEL-HASH-seedN``: one folder per config and seed."""
    document = config.document()
    seed = document["train"].pop("seed")
    name = config.model.rpartition(":")[2].lower()
    return Path("runs") / dataset.name / f"{name}-{content_hash(document)[:6]}-seed{seed}"


def environment() -> dict[str, Any]:
    """Versions and hardware that can change the last bits of a result."""
    from importlib.metadata import version

    import torch

    packages = ("torch", "numpy", "scipy", "pandas", "transformers", "pyarrow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in packages},
    }


def now() -> str:
    """Time of day in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_epochs(run: Path) -> list[dict[str, Any]]:
    """Entries of a run's ``metrics.jsonl``, one for each epoch; none for a model without epochs.

    A line that a crash has torn is none.
    """
    file = run / METRICS
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    return [json.loads(line) for line in lines]


@contextmanager
def log_epochs(run: Path, first_epoch: int) -> Iterator[Any]:
    """Append entries to a run's ``metrics.jsonl``; those of epochs that will be run again are dropped first."""
    path = run / METRICS
    kept = [entry for entry in read_epochs(run) if entry["epoch"] < first_epoch]
    write_text(path, "".join(_line(entry) for entry in kept))
    with path.open("ab", buffering=0) as file:

        def write(entry: dict[str, Any]) -> None:
            line = _line(entry).encode()
            with disk_errors(path):
                while line:
                    line = line[file.write(line) :]

        yield write


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
