from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from mmrec.data import recipe as recipe_module
from mmrec.data.importers import IMPORTERS
from mmrec.data.prepare import PrepareOptions
from mmrec.data.recipe import find_recipes, read_recipe, recipe_folders
from mmrec.data.recipes import get, list_recipes
from mmrec.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "datasets"
NAMES = sorted(path.parent.name for path in SHIPPED.glob("*/recipe.yaml"))


def write_recipe(folder: Path, /, **changes: object) -> Path:
    """A folder with the recipe ``tiny``: a zip of MovieLens files; ``changes`` replace keys, None removes them."""
    content = {
        "name": "tiny",
        "title": "A tiny set",
        "homepage": "https://example.org",
        "confidence": "high",
        "licence": {"name": "Free", "terms": "Be kind.", "citation": "Nobody 2020"},
        "files": [{"name": "ml-1m.zip", "official": "https://example.org/a.zip", "unpack": True}],
        "import": {"format": "movielens", "source": "ml-1m/ml-1m"},
        **changes,
    }
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "tiny").mkdir(parents=True, exist_ok=True)
    (folder / "tiny" / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder


# The shipped recipes


def test_the_public_sets_are_there() -> None:
    amazon = ["amazon-2014", "amazon-2018", "amazon-2023"]
    assert [*amazon, "microlens", "mmctr", "movielens-100k", "movielens-1m", "movielens-32m"] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_recipes_hold_together(name: str) -> None:
    recipe = read_recipe(name, SHIPPED)
    assert recipe.importing.format in IMPORTERS
    assert recipe.importing.options.keys() <= get_type_hints(PrepareOptions).keys()
    assert len(recipe.licence.terms) > 100 and len(recipe.licence.citation) > 50
    for file in recipe.files:
        assert all(re.fullmatch(r"https://[\w./{}~-]+", url) for url in file.urls)
    for option in recipe.options.values():
        assert not option.choices or option.default in option.choices
        assert all(recipe_module._PLAIN.fullmatch(choice) for choice in option.choices)
    choices = [{key: choice} for key, option in recipe.options.items() for choice in option.choices]
    names: set[str] = set()
    for given in [{}, *choices]:
        chosen = recipe.with_options(recipe.choose(given))
        texts = [chosen.folder, chosen.importing.source, *(file.name for file in chosen.files)]
        assert not re.search(
            r"[{}]", " ".join([*texts, *(url for file in chosen.files for url in file.urls)])
        )
        names |= {file.name for file in chosen.files}
    assert recipe.checksums.keys() <= names  # a checksum for a file that nobody downloads is a typing error


def test_wheels_carry_every_recipe() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setuptools["data-files"] == {
        f"share/mmrec/datasets/{name}": [f"datasets/{name}/recipe.yaml"] for name in NAMES
    }


def test_listing() -> None:
    listed = {entry["name"]: entry for entry in list_recipes(SHIPPED)}
    assert list(listed) == NAMES
    assert listed["amazon-2014"]["options"]["category"]["default"] == "Baby"
    json.dumps(list(listed.values()))


# Names and options


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'movielens-100k'\?") as caught:
        get("movielens-100", tmp_path / "set", recipes=SHIPPED)
    assert all(name in caught.value.expected for name in NAMES)
    with pytest.raises(ConfigError, match="none found"):
        get("movielens-100k", tmp_path / "set", recipes=tmp_path)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"core": "5"}, r"did you mean 'k_core'\?"),
        ({"category": "Babys"}, r"did you mean 'Baby'\?"),
        ({"k_core": "five"}, "k_core: a number"),
    ],
)
def test_unknown_options(tmp_path: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get("amazon-2014", tmp_path / "set", options=given, recipes=SHIPPED)


def test_options_keep_their_type() -> None:
    amazon, microlens = read_recipe("amazon-2014", SHIPPED), read_recipe("microlens", SHIPPED)
    chosen = amazon.with_options(amazon.choose({"k_core": "0", "category": "Sports_and_Outdoors"}))
    assert chosen.importing.options == {"k_core": 0}
    assert chosen.folder == "amazon-2014-sports_and_outdoors"
    assert chosen.files[1].name == "meta_Sports_and_Outdoors.json.gz"
    assert microlens.choose({"pictures": "No"})["pictures"] is False
    with pytest.raises(ConfigError, match="yes or no"):
        microlens.choose({"pictures": "maybe"})


@pytest.mark.parametrize("text", ["../x", "a/b", "a b", "", "{category}"])
def test_free_options_stay_plain(tmp_path: Path, text: str) -> None:
    option = recipe_module.Option(default="x", description="free")
    with pytest.raises(ConfigError, match="letters, digits"):
        option.parse("part", text)


# Recipes that cannot be used


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licences": {}}, r"did you mean 'licence'\?"),
        ({"licence": None}, "'licence'"),
        ({"files": []}, "files"),
        ({"files": [{"name": "a.zip", "official": "https://x", "mirror": []}]}, r"did you mean 'mirrors'\?"),
        ({"files": [{"name": "../a.zip", "official": "https://x"}]}, r"'\.\.'"),
        ({"files": [{"name": "a.rar", "official": "https://x", "unpack": True}]}, "no archive"),
        ({"files": [{"name": "{size}.zip", "official": "https://x"}]}, "'size' is used but not declared"),
        ({"files": [{"name": "a.zip", "official": "https://x", "when": {"size": "50k"}}]}, "'size' is used"),
        ({"checksums": {"a.zip": {"sha256": "abc"}}}, "sha256"),
        ({"confidence": "sure"}, "confidence"),
        ({"name": "other"}, "as the folder is called"),
        ({"import": {"format": "movielens", "sources": "x"}}, r"did you mean 'source'\?"),
    ],
)
def test_unusable_recipes(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe("tiny", write_recipe(tmp_path, **changes))
    assert "recipe.yaml" in str(caught.value)


# Where recipes are found


def test_places_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMREC_RECIPES", str(tmp_path / "own"))
    monkeypatch.setattr(recipe_module.sysconfig, "get_path", lambda name: str(tmp_path / "wheel"))
    assert recipe_folders() == [
        tmp_path / "own",
        Path("datasets"),
        ROOT / "datasets",
        tmp_path / "wheel/share/mmrec/datasets",
    ]
    write_recipe(tmp_path / "wheel/share/mmrec/datasets")
    assert find_recipes()["tiny"].is_relative_to(tmp_path / "wheel")
    write_recipe(tmp_path / "own")
    assert find_recipes()["tiny"].is_relative_to(tmp_path / "own")
    assert set(NAMES) < set(find_recipes())
