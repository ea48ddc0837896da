"""What an evaluation left in a run folder, read back and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.errors import DataError, NotFittedError
from mmrec.files import read_json, read_table

if TYPE_CHECKING:
    import pandas as pd


def table_file(name: str, split: str) -> str:
    """Name of the file with the results per user or row (``name``) of a part, in the folder of a run."""
    return f"{name}.parquet" if split == "test" else f"{name}-{split}.parquet"


@dataclass(frozen=True, eq=False)
class Result:
    """One evaluated run.

    Attributes:
        label: Name of the model, or one that you give.
        seed: Seed of the training.
        run: Where it comes from, for messages.
        metrics: ``{"recall@20": mean over users, …}``.
        per_user: Column ``user`` and one column per metric of a user.
        slices: ``{"items: cold": {"n_users": …, "metrics": {…}}, …}``.
        protocol: How it was evaluated; equal in all runs of a comparison.
        config: Resolved experiment config; runs that differ in the seed alone form one row.
        split: ``test`` or ``valid``.
        cost: ``epoch_seconds`` and ``peak_bytes`` of the training.
        codes: By source ``name``, ``hash`` and ``health`` of the semantic IDs.
    """

    label: str
    seed: int
    run: str
    metrics: Mapping[str, float]
    per_user: pd.DataFrame
    slices: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    cost: Mapping[str, float] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RowResult:
    """One evaluated run of a ranker.

    Attributes:
        label: Name of the model, or one that you give.
        seed: Seed of the training.
        run: Where it comes from, for messages.
        metrics: ``{"auc": …, …}``.
        file: Its rows, in the same order in all runs of a comparison: see :meth:`table`.
        n_rows: Number of rows.
        slices: ``{name: {"n": …, "metrics": {…}}, …}``.
        protocol: How it was evaluated; equal in all runs of a comparison.
        config: Resolved experiment config; runs that differ in the seed alone form one row.
        split: ``test`` or ``valid``.
        cost: ``epoch_seconds`` and ``peak_bytes`` of the training.
        codes: By source ``name``, ``hash`` and ``health`` of the semantic IDs.
    """

    label: str
    seed: int
    run: str
    metrics: Mapping[str, float]
    file: Path
    n_rows: int
    slices: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"
    cost: Mapping[str, float] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def table(self, columns: Sequence[str]) -> pd.DataFrame:
        """Columns of its rows; read anew, since the rows of many runs do not fit into memory together.

        Raises:
            DataError: The file is damaged, lacks a column, or is of another evaluation.
        """
        table = read_table(self.file)
        lacking = [column for column in columns if column not in table]
        if lacking or len(table) != self.n_rows:
            raise DataError(
                f"{', '.join(columns)} of {self.n_rows:,} rows in {self.file}",
                f"no {', '.join(lacking)}" if lacking else f"{len(table):,} rows",
                f"mmrec evaluate {self.file.parent} --split {self.split}",
            )
        return table[list(columns)]


def read_result(run: str | Path, split: str = "test") -> Result | RowResult:
    """Read what ``mmrec evaluate RUN --split SPLIT`` left in a run folder.

    Raises:
        NotFittedError: No run folder, or not evaluated on this split.
        ConfigError: The config is no YAML.
        DataError: The files are damaged, or do not belong together.
    """
    from mmrec.config import read_yaml

    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise NotFittedError(
            "a run folder with config.yaml", f"none in {folder}", f"mmrec train CONFIG --run {folder}"
        )
    document = read_json(_evaluated(folder, f"{split}.json", split))
    name = "per_row" if "n_rows" in document else "per_user"
    file = _evaluated(folder, table_file(name, split), split)
    config = read_yaml(folder / "config.yaml")
    try:
        label, seed = str(config["model"]), int(config["train"]["seed"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"model and train.seed in {folder / 'config.yaml'}",
            f"{error!r}",
            "restore the file or train again",
        ) from None
    manifest = folder / "manifest.json"  # results of other programs may come without
    made = read_json(manifest) if manifest.is_file() else {}
    metrics, rest = (
        document["metrics"],
        (
            document.get("slices", {}),
            document.get("protocol", {}),
            config,
            split,
            made.get("cost", {}),
            made.get("codes", {}),
        ),
    )
    if name == "per_row":
        return RowResult(label, seed, str(run), metrics, file, document["n_rows"], *rest)
    per_user = read_table(file)
    _check_means(folder, split, metrics, per_user)
    return Result(label, seed, str(run), metrics, per_user, *rest)


def _evaluated(folder: Path, name: str, split: str) -> Path:
    if not (folder / name).is_file():
        raise NotFittedError(
            f"a run evaluated on {split}",
            f"no {name} in {folder}",
            f"mmrec evaluate {folder} --split {split}",
        )
    return folder / name


def _check_means(folder: Path, split: str, metrics: Mapping[str, float], per_user: pd.DataFrame) -> None:
    """The table per user and the document must come from the same evaluation."""
    for metric in sorted(set(metrics) & set(per_user.columns)):
        mean = float(per_user[metric].mean())
        if not abs(mean - metrics[metric]) < 1e-6:
            raise DataError(
                f"{metric} of {metrics[metric]:.6f}, as {split}.json says",
                f"a mean of {mean:.6f} over the {len(per_user):,} rows per user in {folder}",
                f"mmrec evaluate {folder} --split {split}",
            )
