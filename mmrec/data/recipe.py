"""What a ``recipe.yaml`` may say: where a public dataset comes from, under which terms, and how it is read."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmrec.config import read_yaml, validate
from mmrec.data.archive import is_archive, safe_name
from mmrec.errors import ConfigError, did_you_mean

Value = bool | int | float | str
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_YES, _NO = {"yes", "true", "on", "1"}, {"no", "false", "off", "0"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Licence(_Frozen):
    """The terms that are shown before the first download."""

    name: str
    terms: str = Field(description="the conditions in full, or the essence where they are long")
    url: str | None = None
    citation: str

    def text(self) -> str:
        """The licence for people."""
        link = f"\n{self.url}" if self.url else ""
        return f"{self.name}{link}\n\n{self.terms.strip()}\n\nPlease cite:\n{self.citation.strip()}"


class Option(_Frozen):
    """A choice of the user: ``--option category=Baby``."""

    default: Value
    choices: tuple[str, ...] = ()
    description: str

    def parse(self, name: str, text: str) -> Value:
        """The value that a text means, of the type of the default.

        Raises:
            ConfigError: Not one of the choices, or of another type.
        """
        if self.choices and text not in self.choices:
            raise ConfigError(
                f"{name}: one of {', '.join(self.choices)}",
                repr(text),
                did_you_mean(text, list(self.choices)),
            )
        try:
            if isinstance(self.default, bool):
                return {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}[text.casefold()]
            if not isinstance(self.default, str):
                return type(self.default)(text)
        except (KeyError, ValueError):
            kind = "yes or no" if isinstance(self.default, bool) else f"a number such as {self.default}"
            raise ConfigError(f"{name}: {kind}", repr(text), f"for example {name}={self.default}") from None
        if not _PLAIN.fullmatch(text):
            raise ConfigError(f"{name}: letters, digits, '.', '_' and '-'", repr(text), "correct the option")
        return text


class Published(_Frozen):
    """What is known of a file beforehand."""

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    bytes: int | None = Field(None, gt=0)
    origin: str = Field("published", description="who says so")


class RecipeFile(_Frozen):
    """One file to download; ``{option}`` stands for an option's value in all texts."""

    name: str
    official: str
    mirrors: tuple[str, ...] = Field((), description="addresses of the same bytes")
    unpack: bool = Field(False, description="into a folder named after the file, without its suffixes")
    max_bytes: int = Field(64 << 30, gt=0)
    when: dict[str, Value] = Field(default_factory=dict, description="options under which the file is needed")

    @field_validator("name")
    @classmethod
    def _stays_inside(cls, name: str) -> str:
        safe_name(name)
        return name

    @model_validator(mode="after")
    def _known_archive(self) -> RecipeFile:
        if self.unpack and not is_archive(Path(self.name)):
            raise ValueError(f"{self.name} is no archive that can be unpacked")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """The official address, then the mirrors."""
        return (self.official, *self.mirrors)


class Import(_Frozen):
    """How the files become a dataset."""

    format: str
    source: str = Field(".", description="folder or file below raw/")
    options: dict[str, Any] = Field(
        default_factory=dict, description="for mmrec.data.importers.import_dataset"
    )


class Counts(_Frozen):
    """Published size of the dataset, to compare with."""

    users: int
    items: int
    interactions: int
    when: dict[str, Value] = Field(default_factory=dict)


class Recipe(_Frozen):
    """A public dataset."""

    name: str
    title: str
    homepage: str
    licence: Licence
    confidence: Literal["high", "medium", "low"] = Field(description="in addresses and file formats")
    notes: str = ""
    folder: str = Field("", description="name of the dataset folder; the recipe's name if empty")
    options: dict[str, Option] = Field(default_factory=dict)
    files: tuple[RecipeFile, ...] = Field(min_length=1)
    checksums: dict[str, Published] = Field(default_factory=dict, description="by file name")
    importing: Import = Field(alias="import")
    columns: dict[Literal["interactions", "items", "users"], dict[str, str]] = Field(
        default_factory=dict, description="meaning of the columns"
    )
    counts: tuple[Counts, ...] = ()

    @model_validator(mode="after")
    def _known_options(self) -> Recipe:
        texts = [text for file in self.files for text in (file.name, *file.urls)]
        texts += [self.folder, self.importing.source, *map(str, self.importing.options.values())]
        used = {name for text in texts for name in _PLACEHOLDER.findall(text)}
        for when in [file.when for file in self.files] + [count.when for count in self.counts]:
            used |= when.keys()
        if used - self.options.keys():
            raise ValueError(f"the option {min(used - self.options.keys())!r} is used but not declared")
        return self

    def choose(self, given: Mapping[str, str]) -> dict[str, Value]:
        """All options with their values: the given ones, else the defaults.

        Raises:
            ConfigError: An unknown option or value.
        """
        for name in given:
            if name not in self.options:
                known = list(self.options)
                hint = did_you_mean(name, known) if known else "leave it out"
                raise ConfigError(f"an option of {self.name}: {', '.join(known) or 'none'}", repr(name), hint)
        return {
            name: option.parse(name, given[name]) if name in given else option.default
            for name, option in self.options.items()
        }

    def with_options(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe with the values put in, and without the files that they make unnecessary."""
        files = tuple(
            file.model_copy(
                update={
                    "name": fill(file.name, values),
                    "official": fill(file.official, values),
                    "mirrors": tuple(fill(url, values) for url in file.mirrors),
                }
            )
            for file in self.files
            if applies(file.when, values)
        )
        importing = Import(
            format=self.importing.format,
            source=str(fill(self.importing.source, values)),
            options={key: fill(value, values) for key, value in self.importing.options.items()},
        )
        counts = tuple(count for count in self.counts if applies(count.when, values))
        folder = str(fill(self.folder or self.name, values)).lower()
        return self.model_copy(
            update={"files": files, "importing": importing, "counts": counts, "folder": folder}
        )


def fill(text: Any, values: Mapping[str, Value]) -> Any:
    """A text with option values in place of ``{name}``; a text that is one placeholder becomes the value itself."""
    if not isinstance(text, str):
        return text
    whole = _PLACEHOLDER.fullmatch(text)
    return values[whole[1]] if whole else _PLACEHOLDER.sub(lambda match: str(values[match[1]]), text)


def applies(when: Mapping[str, Value], values: Mapping[str, Value]) -> bool:
    """Whether the options have the values of ``when``."""
    return all(values[name] == value for name, value in when.items())


def recipe_folders() -> list[Path]:
    """Where recipes are looked for; a name found earlier hides a later one.

    ``$MMREC_RECIPES``, ``datasets`` in the working folder, ``datasets`` of the source tree next to the package,
    and the copy that an installed wheel keeps in ``share/mmrec/datasets``.
    """
    import mmrec

    own = [Path(os.environ["MMREC_RECIPES"])] if os.environ.get("MMREC_RECIPES") else []
    package = Path(mmrec.__file__).resolve().parent
    installed = Path(sysconfig.get_path("data")) / "share" / "mmrec" / "datasets"
    return [*own, Path("datasets"), package.parent / "datasets", installed]


def find_recipes(folder: Path | None = None) -> dict[str, Path]:
    """The recipe files by name, in alphabetical order."""
    places = [folder] if folder is not None else recipe_folders()
    found: dict[str, Path] = {}
    for place in reversed(places):
        found |= dict(_below(place))
    return dict(sorted(found.items()))


def _below(place: Path) -> Iterator[tuple[str, Path]]:
    return ((path.parent.name, path) for path in place.glob("*/recipe.yaml"))


def read_recipe(name: str, folder: Path | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        name: Its name, that is the name of its folder.
        folder: Where to look instead of the usual places.

    Raises:
        ConfigError: No such recipe, or an unusable one.
    """
    found = find_recipes(folder)
    if name not in found:
        hint = did_you_mean(name, list(found)) if found else "name the folder of recipes in $MMREC_RECIPES"
        raise ConfigError(f"a known dataset: {', '.join(found) or 'none found'}", repr(name), hint)
    path = found[name]
    recipe = validate(Recipe, read_yaml(path), where=str(path))
    if recipe.name != name:
        raise ConfigError(
            f"name: {name}, as the folder is called, in {path}", recipe.name, "rename one of them"
        )
    return recipe
