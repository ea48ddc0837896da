"""``mmrec data get NAME``: download a public dataset by its recipe, check it, unpack it, import it.

The dataset folder holds, besides the dataset itself, ``raw/`` (the files as downloaded and unpacked) and
``downloads.json``: when the licence was accepted, and address, date, length and SHA-256 of each file. Where a
publisher names no checksum, the one of the first download is recorded there and every later download of the
same file has to agree with it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmrec.data.archive import unpack
from mmrec.data.dataset import Dataset
from mmrec.data.download import Checks, Fetched, Patience, fetch
from mmrec.data.recipe import Published, Recipe, RecipeFile, Value, find_recipes, read_recipe
from mmrec.errors import ConfigError, DataError
from mmrec.files import disk_errors, read_json, write_json
from mmrec.progress import note

FORMAT = 1
FIRST_USE = "first use"
_SUFFIXES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".tar")


def list_recipes(recipes: Path | None = None) -> list[dict[str, Any]]:
    """Name, title, licence and options of each known dataset, in alphabetical order.

    Args:
        recipes: Folder of recipes instead of the usual places (:func:`mmrec.data.recipe.recipe_folders`).

    Raises:
        ConfigError: A recipe that cannot be used.
    """
    known = [read_recipe(name, recipes) for name in find_recipes(recipes)]
    return [
        {
            "name": recipe.name,
            "title": recipe.title,
            "homepage": recipe.homepage,
            "licence": recipe.licence.name,
            "options": {
                name: {
                    "default": option.default,
                    "choices": list(option.choices),
                    "description": option.description,
                }
                for name, option in recipe.options.items()
            },
        }
        for recipe in known
    ]


def get(
    name: str,
    to: str | Path | None = None,
    *,
    accept_licence: bool = False,
    options: Mapping[str, str] | None = None,
    recipes: Path | None = None,
    patience: Patience | None = None,
    show: bool = True,
) -> Dataset:
    """Download, check, unpack and import a public dataset; what is there already is checked and kept.

    Args:
        name: Name of the recipe.
        to: Dataset folder; None takes ``datasets/NAME``, with the options in the name where the recipe says so.
        accept_licence: Accept the licence without being asked; it is shown in any case.
        options: Options of the recipe, for example ``{"category": "Baby"}``.
        recipes: Folder of recipes instead of the usual places.
        patience: Timeouts and attempts of the downloads.
        show: Show the progress of the downloads.

    Raises:
        ConfigError: Unknown name or option, unusable recipe, or a licence that was not accepted.
        DataError: A file that no address delivers, that is not the expected one, or cannot be read.
        DiskError: The disk is full or may not be written.
    """
    recipe = read_recipe(name, recipes)
    values = recipe.choose(options or {})
    recipe = recipe.with_options(values)
    folder = Path(to) if to is not None else Path("datasets") / recipe.folder
    with _only_process(folder):
        log = _Log(folder, recipe, values)
        if (folder / "dataset.json").is_file():
            note(f"{folder} is there already")
            return Dataset(folder)
        _agree(recipe, log, accept_licence)
        for file in recipe.files:
            fetched = _download(recipe, file, log, patience, show)
            _unpack(file, fetched)
        dataset = _import(recipe, folder)
    _compare_counts(recipe, dataset)
    return dataset


class _Log:
    """``downloads.json`` of a dataset folder."""

    def __init__(self, folder: Path, recipe: Recipe, values: Mapping[str, Value]) -> None:
        self.folder, self.path = folder, folder / "downloads.json"
        self.content: dict[str, Any] = {
            "format": FORMAT,
            "recipe": recipe.name,
            "options": dict(values),
            "files": {},
        }
        if self.path.is_file():
            self.content = read_json(self.path)
            self._check(recipe, values)
        elif (folder / "dataset.json").is_file():
            raise DataError(
                f"a new folder for {recipe.name}", f"another dataset in {folder}", "--to ANOTHER_FOLDER"
            )

    def _check(self, recipe: Recipe, values: Mapping[str, Value]) -> None:
        wanted = {"format": FORMAT, "recipe": recipe.name, "options": dict(values)}
        found = {key: self.content.get(key) for key in wanted}
        if found != wanted:
            raise DataError(
                f"{recipe.name} with {_words(values)} in {self.folder}",
                f"{found['recipe']} with {_words(found['options'] or {})}",
                "--to ANOTHER_FOLDER",
            )

    def save(self, key: str, value: Any) -> None:
        self.content[key] = value
        write_json(self.path, self.content)


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "no options"


@contextlib.contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the lock ends with the process, however it ends."""
    import fcntl

    path = folder / ".lock"
    with contextlib.ExitStack() as stack:
        with disk_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder} for this process alone", "another mmrec data get is at work there", "wait for it"
            ) from None
        try:
            yield
        finally:
            if not (folder / "downloads.json").exists():  # nothing was begun: leave nothing behind
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _agree(recipe: Recipe, log: _Log, accept: bool) -> None:
    """Show the licence and have it accepted, once for each wording."""
    text = recipe.licence.text()
    wording = hashlib.sha256(text.encode()).hexdigest()
    if log.content.get("licence", {}).get("sha256") == wording:
        return
    note(f"{recipe.title}\n{recipe.homepage}\n\nLicence: {text}\n")
    how = "by option"
    if not accept:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(
                f"the licence of {recipe.name} ({recipe.licence.name}), shown above, to be accepted",
                "no terminal to ask at",
                f"mmrec data get {recipe.name} --accept-licence (in Python: accept_licence=True)",
            )
        print("Do you accept these terms? [y/N] ", end="", file=sys.stderr, flush=True)
        how = "at the terminal"
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise ConfigError("the licence to be accepted", "it was declined", "nothing was downloaded")
    log.save("licence", {"name": recipe.licence.name, "sha256": wording, "accepted": _today(), "how": how})


def _download(recipe: Recipe, file: RecipeFile, log: _Log, patience: Patience | None, show: bool) -> Fetched:
    files: dict[str, Any] = log.content["files"]
    known = files.get(file.name)
    fetched = fetch(
        file.urls,
        log.folder / "raw" / file.name,
        checks=_checks(recipe, file, known, log),
        max_bytes=file.max_bytes,
        patience=patience,
        show=show,
    )
    published = recipe.checksums.get(file.name)
    if known is None or known["sha256"] != fetched.sha256:
        entry = {
            "url": fetched.url,  # null for a file that was put there by hand
            "sha256": fetched.sha256,
            "bytes": fetched.size,
            "date": _today(),
            "checked": _how_checked(published),
        }
        log.save("files", {**files, file.name: entry})
        if entry["checked"] == FIRST_USE:
            note(
                f"{file.name}: no published checksum; sha256 {fetched.sha256} is recorded and expected from now on"
            )
    return fetched


def _how_checked(published: Published | None) -> str:
    if published is None or not (published.sha256 or published.md5):
        return FIRST_USE
    return f"{'sha256' if published.sha256 else 'md5'} ({published.origin})"


def _checks(recipe: Recipe, file: RecipeFile, known: Mapping[str, Any] | None, log: _Log) -> Checks:
    """What the file must be: as published, and where nothing is published, as it was the first time."""
    published = recipe.checksums.get(file.name)
    if published is not None and (published.sha256 or known is None):
        return Checks(published.sha256, published.md5, published.bytes, published.origin)
    if known is None:
        return Checks()
    return Checks(
        known["sha256"],
        published.md5 if published else None,
        known["bytes"],
        f"recorded on {known['date']}",
        f"if the publisher has replaced the file and you trust it, remove {file.name} from {log.path}",
    )


def _unpack(file: RecipeFile, fetched: Fetched) -> None:
    if not file.unpack:
        return
    folder = fetched.path.with_name(_stem(fetched.path.name))
    if fetched.url is not None and folder.exists():  # of an older download
        shutil.rmtree(folder)
    if not folder.exists():
        unpack(fetched.path, folder)


def _stem(name: str) -> str:
    while name.lower().endswith(_SUFFIXES):
        name = name[: name.rindex(".")]
    return name


def _import(recipe: Recipe, folder: Path) -> Dataset:
    """Import beside the raw files; ``dataset.json``, which makes it a dataset, arrives last."""
    from mmrec.data.importers import import_dataset

    new = folder / ".new"
    shutil.rmtree(new, ignore_errors=True)
    source = folder / "raw" / recipe.importing.source
    options = {"name": folder.resolve().name, **recipe.importing.options}
    import_dataset(source, new, format=recipe.importing.format, **options)
    for path in sorted(new.iterdir(), key=lambda path: (path.name == "dataset.json", path.name)):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    new.rmdir()
    return Dataset(folder)


def _compare_counts(recipe: Recipe, dataset: Dataset) -> None:
    found = {"users": dataset.n_users, "items": dataset.n_items, "interactions": dataset.n_interactions}
    for count in recipe.counts:
        wanted = count.model_dump(include=set(found))
        if wanted != found:
            note(f"{recipe.name}: the publisher counts {_words(wanted)}; here are {_words(found)}")


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
