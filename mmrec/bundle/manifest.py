"""manifest.json: what a bundle is and which files belong to it; the first thing that is read and the last written."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmrec.errors import BundleError

FORMAT = 1
Kind = Literal["vectors", "sequence", "scores", "generator"]
KINDS = get_args(Kind)
Metric = Literal["inner product", "score", "log probability"]
METRICS: dict[Kind, Metric] = {
    "vectors": "inner product",
    "sequence": "inner product",
    "scores": "score",
    "generator": "log probability",
}

MANIFEST = "manifest.json"
CARD = "README.md"
ITEMS, USERS, SEEN = "items.parquet", "users.parquet", "seen.safetensors"
ITEM_VECTORS, USER_VECTORS = "item_vectors.safetensors", "user_vectors.safetensors"
CONFIG, CHECKPOINT = "model/config.json", "model/checkpoint.safetensors"
INPUTS, INPUT_TENSORS = "model/inputs.json", "model/inputs.safetensors"
PICTURES = "pictures.parquet"
INDEX, RANKER = "index", "ranker"  # folders
RANKER_CONFIG, RANKER_CHECKPOINT = "ranker/config.json", "ranker/checkpoint.safetensors"
RANKER_INPUTS, RANKER_INPUT_TENSORS = "ranker/inputs.json", "ranker/inputs.safetensors"
RANKER_HISTORIES, RANKER_CALIBRATION = "ranker/histories.safetensors", "ranker/calibration.json"

_MODEL = (CHECKPOINT, INPUTS, INPUT_TENSORS)
FILES: dict[Kind, tuple[str, ...]] = {
    "vectors": (ITEM_VECTORS, USER_VECTORS),
    "sequence": (ITEM_VECTORS, *_MODEL),
    "scores": _MODEL,
    "generator": _MODEL,
}
_RANKER = (RANKER_CONFIG, RANKER_CHECKPOINT, RANKER_INPUTS, RANKER_INPUT_TENSORS, RANKER_CALIBRATION)
MOST_FILES = 10_000


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class FileEntry(_Frozen):
    """Size and SHA-256 of a file."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Source(_Frozen):
    """Something that the model was made from: its name and the hash of its content."""

    name: str
    hash: str


class Counts(_Frozen):
    """How much there is of everything.

    Attributes:
        users: Rows of users.parquet.
        items: Rows of items.parquet.
        seen: Pairs of user and item in seen.safetensors.
        users_without_items: Users among them whom nothing is known of.
        cold_items: Items among them that nobody has.
        without: Modality to how many items lack it.
    """

    users: int = Field(ge=1)
    items: int = Field(ge=1)
    seen: int = Field(ge=0)
    users_without_items: int = Field(ge=0)
    cold_items: int = Field(ge=0)
    without: dict[str, int]


class Encoding(_Frozen):
    """How a feature table was made, so that new items can be encoded alike.

    Attributes:
        modality: ``text``, ``image`` or ``joint``.
        encoder: Name, revision or content hash, and settings; a word alone for features that somebody else made.
        fields: Text columns in the order they are joined; None: no texts.
        inputs: SHA-256 of what was encoded.
        dtype: Stored type.
    """

    modality: str
    encoder: dict[str, Any] | str
    fields: list[str] | None
    inputs: str | None
    dtype: Literal["float16", "float32", "float64"]


class Addition(_Frozen):
    """Items that came after the training.

    Attributes:
        when: In UTC.
        mmrec: Version that added them.
        items: New rows.
        replaced: Rows that were replaced.
        how: How their vectors or codes were made.
    """

    when: str
    mmrec: str
    items: int = Field(ge=0)
    replaced: int = Field(ge=0)
    how: str


class Evaluated(_Frozen):
    """What ``mmrec evaluate`` found for the run."""

    n_users: int = Field(ge=0)
    metrics: dict[str, float]
    slices: dict[str, Any]
    protocol: dict[str, Any]


class Trained(_Frozen):
    """How the run came about.

    Attributes:
        seed: Of the training.
        best_epoch: The epoch whose tensors these are.
        config_hash: Of the resolved config.
        test_opened: When its test split was evaluated.
    """

    seed: int
    best_epoch: int
    config_hash: str
    test_opened: list[str]


class Pictures(_Frozen):
    """Pictures in the folder ``images/``; the list of them is pictures.parquet."""

    files: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Index(_Frozen):
    """A saved index in the folder ``index/``.

    Attributes:
        backend: Its kind.
        options: How it was built.
        recall: ``recall@k`` measured against the exact result.
    """

    backend: str
    options: dict[str, Any]
    recall: dict[str, float]


class EvaluatedRows(_Frozen):
    """What ``mmrec evaluate`` found for the run of a ranker."""

    n_rows: int = Field(ge=0)
    metrics: dict[str, float]
    protocol: dict[str, Any]


class RankerEntry(_Frozen):
    """A second run in the folder ``ranker/``, which orders anew what the first one finds.

    Attributes:
        dataset: The rows that it was trained on, made from the dataset and the split of the bundle.
        label: What makes an interaction positive, such as ``rating >= 4``; None: there are no others, negatives were drawn.
        history: Whether histories hold ``positives`` alone or ``all`` items of a user, which without a label is the same;
            None: it reads no histories.
        calibration: How logits became probabilities, on validation rows.
        evaluations: What was measured, ``valid`` and, if it was opened, ``test``.
        merge_error: Largest difference of a logit, over drawn pairs, after the matrices of a layer had been merged into
            one; None: the tensors are those of the training.
    """

    model: str
    dataset: Source
    features: dict[str, Source]
    codes: dict[str, Source]
    trained: Trained
    label: str | None
    history: Literal["positives", "all"] | None
    calibration: Literal["none", "temperature", "platt"]
    evaluations: dict[Literal["valid", "test"], EvaluatedRows]
    merge_error: float | None


class Manifest(_Frozen):
    """A bundle.

    Attributes:
        format: Of the bundle.
        mmrec: Version that wrote it.
        created: When, in UTC.
        kind: Where scores come from: two tables, item vectors and an encoder of histories, a scorer or a generator.
        model: Name of the model, or ``package.module:Class``.
        metric: What a score is.
        dim: Width of the vectors; None where there are none.
        columns: Column of items.parquet to its kind, ``text``, ``category``, ….
        in_time: Whether what a user has seen is in the order of time, the oldest first.
        encodings: How the feature tables were made by which new items get vectors or codes, by name.
        additions: Items that came after the training, the last rows; oldest first.
        evaluations: What was measured, ``valid`` and, if it was opened, ``test``.
        files: Every file of the bundle but this one and the pictures.
    """

    format: Literal[1]
    mmrec: str
    created: str
    kind: Kind
    model: str
    metric: Metric
    dim: int | None = Field(ge=1)
    counts: Counts
    dataset: Source
    split: Source
    split_protocol: str
    features: dict[str, Source]
    codes: dict[str, Source]
    columns: dict[str, str]
    in_time: bool = False
    encodings: dict[str, Encoding] = {}
    additions: list[Addition] = []
    trained: Trained
    evaluations: dict[Literal["valid", "test"], Evaluated]
    pictures: Pictures | None
    index: Index | None
    ranker: RankerEntry | None
    files: dict[str, FileEntry] = Field(max_length=MOST_FILES)

    @property
    def trained_items(self) -> int:
        """Items that there were at the training, the first rows."""
        return self.counts.items - sum(addition.items for addition in self.additions)

    @field_validator("files")
    @classmethod
    def _names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in files:
            check_name(name)
        return files

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        needed = {ITEMS, USERS, SEEN, CARD, CONFIG, *FILES[self.kind]}
        needed |= {PICTURES} if self.pictures is not None else set()
        needed |= set(_RANKER) if self.ranker is not None else set()
        needed |= {RANKER_HISTORIES} if self.ranker is not None and self.ranker.history is not None else set()
        if lacking := sorted(needed - self.files.keys()):
            raise ValueError(f"no {', '.join(lacking)} among the files of a bundle of kind {self.kind}")
        if self.trained_items < 1:
            raise ValueError(f"{self.counts.items} items, more of which were added")
        if self.metric != METRICS[self.kind]:
            raise ValueError(f"metric {self.metric!r} of a bundle of kind {self.kind}")
        if (self.dim is None) != (self.kind in ("scores", "generator")):
            raise ValueError(f"dim {self.dim} of a bundle of kind {self.kind}")
        return self


def check_name(name: str) -> str:
    """A plain relative path inside a folder.

    Raises:
        BundleError: An absolute path, one that climbs, or one with characters that no file here has.
    """
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    if not plain or len(name) > 1024 or any(char in "\\\0" or not char.isprintable() for char in name):
        raise BundleError(
            "names of files inside the bundle", repr(name[:200]), "do not use this bundle: ask who made it"
        )
    return name


def read_manifest(document: Any, where: str) -> Manifest:
    """Check the content of a manifest.

    Raises:
        BundleError: Not that of a bundle of this format.
    """
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"the manifest of a bundle (format {FORMAT}) in {where}",
            f"format {found!r}",
            "name a folder that mmrec export made, or export again with this version of mmrec",
        )
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the manifest"
        raise BundleError(
            f"the manifest of a bundle in {where}", f"{place}: {first['msg']}", "export the run again"
        ) from None
