"""The folder of a search: what is searched on what, the locks of its workers, and a run folder per trial."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmrec
from mmrec.config import ExperimentConfig, differences, load_config
from mmrec.data.dataset import Dataset
from mmrec.data.rows.dataset import RowDataset
from mmrec.errors import ConfigError, DataError
from mmrec.files import content_hash, read_json, remove_leftovers, write_json
from mmrec.runs import now

FORMAT = 1
MANIFEST = "search.json"


class SearchFolder:
    """A folder with ``search.json``, ``journal.log`` and the runs ``trial-000``, ``trial-001``, ….

    Args:
        path: The folder; :func:`open_folder` makes one.

    Raises:
        ConfigError: No search there.
        DataError: ``search.json`` is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise ConfigError(
                f"a search with {MANIFEST}",
                f"none in {self.path}",
                "mmrec tune CONFIG without --resume begins one",
            )
        self.manifest: dict[str, Any] = read_json(self.path / MANIFEST)
        if not isinstance(self.manifest, dict) or self.manifest.get("format") != FORMAT:
            raise DataError(
                f"a search of format {FORMAT} in {self.path / MANIFEST}",
                "something else",
                "choose another --to",
            )
        self.config: ExperimentConfig = load_config(self.manifest["config"])
        self._taken: dict[int, int] = {}

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "journal.log"

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.path / f"trial-{number:03d}"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Let one worker at a time look at the journal and act on what it saw."""
        with locked(self.path / "locks" / "search"):
            yield

    def take(self, number: int) -> bool:
        """Make a trial this process's own until :meth:`release` or the end of the process, however it ends.

        Returns:
            False if a living worker has it.
        """
        descriptor = lock(self.path / "locks" / f"{number:03d}", wait=False)
        if descriptor is None:
            return False
        self._taken[number] = descriptor
        return True

    def release(self, number: int) -> None:
        """Give up a trial that was taken."""
        os.close(self._taken.pop(number))

    def check(self, manifest: dict[str, Any]) -> None:
        """Refuse to go on with another search; only the number of trials may change.

        Raises:
            ConfigError: Another config, space, dataset, split or features.
        """
        changes = differences(_identity(self.manifest), _identity(manifest))
        if changes:
            raise ConfigError(
                f"the search that began in {self.path}",
                f"another one: {'; '.join(changes)}",
                "undo the changes, or choose another --to",
            )


def lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file; the lock ends when the descriptor is closed, at the latest with the process.

    Returns:
        The descriptor; None if another process has the lock and there is no waiting.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, after waiting for it."""
    descriptor = lock(path, wait=True)
    assert descriptor is not None
    try:
        yield
    finally:
        os.close(descriptor)


def open_folder(
    path: Path | None, config: ExperimentConfig, dataset: Dataset | RowDataset, *, resume: bool
) -> SearchFolder:
    """Begin a search, or join or continue the one that is there.

    Args:
        path: The folder; ``runs/tune/DATASET-MODEL-HASH`` if None.
        config: What to search.
        dataset: Where.
        resume: Refuse to begin one.

    Raises:
        ConfigError: Another search or other files are there, or nothing with ``resume``.
    """
    manifest = _describe(config, dataset)
    path = path or _default_path(config, dataset)
    if resume or (path / MANIFEST).is_file():
        SearchFolder(path).check(manifest)
    elif path.exists() and not _is_free(path) and not (path / MANIFEST).is_file():  # written since by another
        raise ConfigError(
            "a new or empty folder for the search", f"{path} with other files", "choose another --to"
        )
    (path / "locks").mkdir(parents=True, exist_ok=True)
    with locked(path / "locks" / "search"):
        if (path / MANIFEST).is_file():  # perhaps only since a moment ago
            there = SearchFolder(path)
            there.check(manifest)
            manifest = there.manifest | {"config": manifest["config"]}
        write_json(path / MANIFEST, manifest)
    return SearchFolder(path)


def _is_free(path: Path) -> bool:
    """True for an empty folder, and for what a kill, or another worker, leaves before the manifest is there."""
    if not path.is_dir():
        return False
    remove_leftovers(path)
    names = {file.name for file in path.iterdir() if not file.name.startswith(f".{MANIFEST}.partial-")}
    return names <= {"locks"}


def _describe(config: ExperimentConfig, dataset: Dataset | RowDataset) -> dict[str, Any]:
    split = dataset.split(config.split)
    tables = {modality: dataset.features(name) for modality, name in config.features.items()}
    return {
        "format": FORMAT,
        "mmrec": mmrec.__version__,
        "created": now(),
        "config": config.document(search=True),
        "dataset": {"name": dataset.name, "path": str(dataset.path.resolve()), "hash": dataset.hash},
        "split": {"name": split.name, "hash": split.hash},
        "features": {modality: table.hash for modality, table in sorted(tables.items())},
        "codes": {source: dataset.codes(name).hash for source, name in sorted(config.codes.items())},
    }


def _identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """What must not change: all but the number of trials and where the dataset lies."""
    config = _searched(manifest["config"])
    del config["data"]
    dataset = {key: manifest["dataset"][key] for key in ("name", "hash")}
    return config | {
        "dataset": dataset,
        "split": manifest["split"],
        "feature tables": manifest["features"],
        "code tables": manifest.get("codes", {}),
    }


def _searched(document: dict[str, Any]) -> dict[str, Any]:
    search = {key: value for key, value in document["search"].items() if key != "trials"}
    return document | {"search": search}


def _default_path(config: ExperimentConfig, dataset: Dataset | RowDataset) -> Path:
    """One folder per config; a search with more trials goes on in the same."""
    model = config.model.rpartition(":")[2].lower()
    key = content_hash(_searched(config.document(search=True)))
    return Path("runs") / "tune" / f"{dataset.name}-{model}-{key[:6]}"
