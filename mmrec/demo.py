"""The demo: from an empty folder to trained, compared models and a report with pictures, in a minute or two."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mmrec
from mmrec.compare import Comparison, compare
from mmrec.config import ExperimentConfig, load_config
from mmrec.data.dataset import Dataset
from mmrec.data.toyshop import make_toyshop
from mmrec.encode.runner import encode
from mmrec.errors import ConfigError, FeatureError
from mmrec.evaluate import evaluate
from mmrec.files import read_json, write_json
from mmrec.report import write_report
from mmrec.report.users import ItemView, UserView, choose_users, view_users
from mmrec.runs import Run
from mmrec.tables import plain
from mmrec.train import train

FEATURES = {"text": "text-tfidf", "image": "image-histogram"}
TRAIN = {"epochs": 60, "batch_size": 1024, "lr": 5e-3, "patience": 10}

# Chosen on the validation part of the toy shop. FREEDOM's strong pruning and its single layer over users and items
# lean it towards what items look like, which is what cold items need.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "popularity": {},
    "lightgcn": {"params": {"dim": 64, "layers": 2, "reg": 1e-2}},
    "freedom": {
        "params": {"dim": 64, "ui_layers": 1, "knn_k": 10, "image_weight": 0.5, "dropout": 0.9},
        "features": FEATURES,
    },
}
BASELINE, SHOWN_MODEL = "lightgcn", "freedom"
SLICES = ("items: cold", "items: without image", "items: without text")
REPORT_USERS = 6  # every second of them is printed as well
ABOUT = (
    "A made-up shop of home goods. Each item has a category, a style and a tone, which its picture and its text show; "
    "each user prefers some of them and buys accordingly, popular items more often.",
    "Popularity recommends the same best-sellers to everyone. LightGCN learns from who bought what. FREEDOM also "
    "looks at pictures and texts, so that it can place items which nobody has bought yet.",
)


def run_demo(
    to: str | Path = Path("runs/demo"),
    *,
    seeds: int = 2,
    shop: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Make a toy shop, encode it, train three models on it, compare them and write a report.

    What an earlier call finished is used again, and an interrupted call goes on where it stopped.

    Args:
        to: Folder for everything.
        seeds: Seeds per model.
        shop: Options of :func:`mmrec.data.toyshop.make_toyshop`, for example ``{"n_items": 60}``.
        settings: Training settings, in place of the demo's.

    Returns:
        The HTML file.

    Raises:
        ConfigError: Wrong options, or a folder that holds something else.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    folder, started = Path(to), time.monotonic()
    if seeds < 1:
        raise ConfigError("seeds >= 1", str(seeds), "train each model at least once")
    configs = {name: _config(name, folder, settings or {}) for name in MODELS}
    plan = _open_folder(folder, configs, shop or {})
    try:
        dataset = _make_shop(folder, plan)
        _encode(dataset)
        runs = _train(folder, dataset, configs, seeds)
        comparison = _compare(runs, dataset)
        users = _look_at_users(comparison, dataset)
        _step(6, "Write the report")
        report = write_report(
            folder / "report.html", comparison, users, dataset, title="mmrec demo: a toy shop", about=ABOUT
        )
    except KeyboardInterrupt:
        print(f"\nInterrupted. What is done is kept: mmrec demo --to {folder} goes on from here.", flush=True)
        raise
    print(f"   {report} ({report.stat().st_size / 1024:,.0f} KiB): open it in a browser")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Next, for example:")
    print(f"   mmrec recommend {runs[-1]} --user {users[-1].user_id}")
    print(f"   mmrec data show {dataset.path}", flush=True)
    return report


def _config(name: str, folder: Path, settings: Mapping[str, Any]) -> ExperimentConfig:
    document = {
        "model": name,
        "data": str(folder / "toyshop"),
        "train": {**TRAIN, **settings},
        **MODELS[name],
    }
    return load_config(document)


def _open_folder(
    folder: Path, configs: Mapping[str, ExperimentConfig], shop: Mapping[str, Any]
) -> dict[str, Any]:
    """Write down what is going to be made, or check that an earlier demo made the same.

    Raises:
        ConfigError: The folder holds something else, or the demo of another version or with other options.
    """
    models = {name: {**config.document(), "data": None} for name, config in configs.items()}
    plan = {"mmrec": mmrec.__version__, "shop": dict(shop), "models": models}
    file = folder / "demo.json"
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(
                "a new or empty folder, or one of an earlier demo",
                f"{folder} with other files",
                "choose another folder with --to",
            )
        write_json(file, plan)
        return plan
    earlier: dict[str, Any] = read_json(file)
    changed = [key for key in plan if earlier.get(key) != plan[key]]
    if changed:
        raise _stale(folder, f"one with another entry {' and '.join(changed)} in {file}")
    return earlier


def _stale(folder: Path, found: str) -> ConfigError:
    return ConfigError(
        f"an earlier demo of this version and with these options in {folder}",
        found,
        f"remove it (rm -r {folder}) and run the demo again, or choose another folder with --to",
    )


def _make_shop(folder: Path, plan: dict[str, Any]) -> Dataset:
    _step(1, "Make a toy shop: draw pictures, write texts, let simulated users buy")
    path = folder / "toyshop"
    if path.exists() and "default" not in Dataset(path).split_names():
        shutil.rmtree(path)  # killed between the tables and the split
    dataset = Dataset(path) if path.exists() else make_toyshop(path, **plan["shop"])
    if plan.setdefault("dataset", dataset.hash) != dataset.hash:
        raise _stale(folder, f"other tables in {path} than it made")
    write_json(folder / "demo.json", plan)
    split = dataset.split()
    cold = dataset.n_items - len(set(split.train.items.tolist()))
    absent = [f"{int((~there).sum())} without {modality}" for modality, there in dataset.modalities().items()]
    print(f"   {path}: {dataset.n_users:,} users, {dataset.n_interactions:,} purchases,")
    print(f"   {dataset.n_items:,} items ({', '.join(absent)}, {cold} cold: nobody bought them in training)")
    return dataset


def _encode(dataset: Dataset) -> None:
    _step(2, "Turn texts and pictures into vectors; nothing is downloaded")
    fields = dataset.text_columns()  # the category would give every item a text
    try:
        tables = (
            encode(dataset, encoder="tfidf", name=FEATURES["text"], fields=fields, show_progress=False),
            encode(
                dataset, modality="image", encoder="histogram", name=FEATURES["image"], show_progress=False
            ),
        )
    except FeatureError as error:
        raise _stale(dataset.path.parent, error.found) from None
    for table in tables:
        folder = dataset.path / "features" / table.name
        print(f"   {folder}: {int(table.present.sum())} vectors of width {table.dim}")


def _train(folder: Path, dataset: Dataset, configs: Mapping[str, ExperimentConfig], seeds: int) -> list[Path]:
    _step(
        3,
        f"Train {', '.join(configs)} with {seeds} seed{'s' * (seeds > 1)} each; validation chooses the epoch",
    )
    runs = []
    for name, config in configs.items():
        for seed in range(seeds):
            path = folder / "runs" / f"{name}-seed{seed}"
            if path.exists() and not (path / "manifest.json").exists():
                shutil.rmtree(path)  # killed while the folder was being made: there is nothing in it yet
            run = train(config, dataset, seed=seed, run=path, resume=True)
            value = read_json(path / "valid.json")["metrics"][config.train.monitor]
            epoch = f", best epoch {run.manifest['best_epoch']}" if run.manifest["epochs_run"] else ""
            print(f"   {path}: validation {config.train.monitor} {value:.4f}{epoch}", flush=True)
            runs.append(path)
    return runs


def _compare(runs: Sequence[Path], dataset: Dataset) -> Comparison:
    _step(4, "Open the test part and compare")
    for path in runs:
        if not (path / "test.json").exists():  # a test part that was opened before stays as it was
            evaluate(Run(path), "test", data=dataset.path)
    known = read_json(runs[0] / "test.json")["slices"]
    comparison = compare(runs, baseline=BASELINE, slices=[name for name in SLICES if name in known])
    print()
    print(plain(comparison), flush=True)
    return comparison


def _look_at_users(comparison: Comparison, dataset: Dataset) -> list[UserView]:
    _step(5, f"Look at three users, from the least to the most active, through {SHOWN_MODEL}")
    chosen = choose_users(dataset, dataset.split(), REPORT_USERS)
    users = view_users(comparison, chosen, dataset)
    for user in users[1::2]:
        print(f"\n   {user.user_id} has bought {user.n_history} items, the last of them")
        for item in user.history[-5:]:
            print(f"      {_describe(item)}")
        print("   and is recommended")
        _print_list(dict(user.recommendations)[SHOWN_MODEL][:5])
        if user.cold:
            print("   and, of the items that nobody has bought yet,")
            _print_list(dict(user.cold)[SHOWN_MODEL][:2])
    return users


def _print_list(items: Sequence[ItemView]) -> None:
    for place, item in enumerate(items, start=1):
        print(f"   {place:>3}. {_describe(item)}")


def _describe(item: ItemView) -> str:
    marks = [
        name
        for name, there in (
            ("no picture", item.picture is None),
            ("no text", item.title == item.item_id),
            ("cold", item.cold),
            ("✓ bought, hidden in training", item.hidden),
        )
        if there
    ]
    return f"{item.title}  [{', '.join(marks)}]" if marks else item.title


def _step(number: int, what: str) -> None:
    print(f"\n{number}/6 {what}", flush=True)
