"""New items encoded as the catalogue was: the same encoder, compared by content, and the same columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.manifest import Encoding
from mmrec.encode.encoders import POOLINGS, Encoder, EncoderOptions, choose_encoder
from mmrec.encode.features import FeatureTable
from mmrec.encode.inputs import join_texts
from mmrec.errors import FeatureError
from mmrec.files import content_hash

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image

BUILT_IN = ("tfidf", "words", "histogram")  # all that a bundle may choose by itself
BATCH = 64
Pictures = Sequence["Image | None"]


def encoding_of(table: FeatureTable) -> Encoding:
    """How a table of a dataset was made."""
    inputs = table.manifest.get("inputs", {})
    return Encoding(
        modality=table.modality,
        encoder=table.manifest.get("encoder", "unknown"),
        fields=inputs.get("fields"),
        inputs=inputs.get("sha256"),
        dtype=str(table.vectors.dtype),  # type: ignore[arg-type]
    )


def open_encoder(name: str, encoding: Encoding, chosen: str | Encoder | None, items: pd.DataFrame) -> Encoder:
    """The encoder by which a table was made, fitted where it learns from the catalogue.

    Args:
        name: Of the table, for messages.
        encoding: How it was made.
        chosen: Where the encoder is now, for all but the built-in ones: a bundle does not say what is loaded.
        items: The items that were encoded, which ``tfidf`` and ``words`` learn from again.

    Raises:
        FeatureError: No encoder is known or named, it is another one, or the texts to learn from have changed.
    """
    made = encoding.encoder
    if isinstance(made, str):
        raise FeatureError(
            f"features {name} that mmrec encode made",
            f"given ones ({made})",
            "encode the new items where those come from, and give vectors: vectors_from_features",
        )
    known = str(made.get("name"))
    if chosen is None and known not in BUILT_IN:
        raise FeatureError(
            f"the encoder of {name}: {known}, {made.get('revision', 'no revision')}",
            "none named",
            f"say where it is: --encoder {encoding.modality}=FOLDER_OR_NAME",
        )
    encoder = choose_encoder(known if chosen is None else chosen, _options(encoding.modality, made))
    _check_same(name, made, encoder.describe())
    if hasattr(encoder, "fit"):
        encoder.fit(_texts_again(name, encoding, items))
    return encoder


def _options(modality: str, made: Mapping[str, Any]) -> EncoderOptions:
    pooling = made.get("pooling")
    return EncoderOptions(
        modality=modality,
        pooling=pooling if pooling in POOLINGS and modality != "image" else "mean",
        prompt=made.get("prompt", ""),
        normalize=made.get("normalize", True),
        max_length=made.get("max_length"),
        precision=made.get("precision", "auto"),
        dim=made.get("words", made.get("dim")),
    )


def _check_same(name: str, made: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """A folder that has moved may have another name; its content may not differ."""
    same_content = str(made.get("revision")).startswith("sha256:")
    passed_over = {"note", "name"} if same_content else {"note"}
    keys = [key for key in {**made, **found} if key not in passed_over]
    if different := [key for key in keys if made.get(key) != found.get(key)]:
        key = different[0]
        raise FeatureError(
            f"the encoder of {name}: {made.get('name')} with {key} {made.get(key)!r}",
            f"{found.get('name')} with {key} {found.get(key)!r}",
            "name the encoder that the catalogue was encoded with; vectors of another one mean something else",
        )


def _texts_again(name: str, encoding: Encoding, items: pd.DataFrame) -> list[str]:
    """The texts that the encoder learned from, if the bundle still has them all.

    Raises:
        FeatureError: It does not.
    """
    texts = join_texts(items, _columns(name, encoding, items))
    rows = [row for row, text in enumerate(texts) if text]
    texts = [texts[row] for row in rows]
    if content_hash([len(items), rows, texts, None]) != encoding.inputs:
        raise FeatureError(
            f"the texts that the encoder of {name} learned from",
            "others: items that it knew were replaced",
            "export the run again, or use features of an encoder that does not learn from the catalogue",
        )
    return texts


def _columns(name: str, encoding: Encoding, items: pd.DataFrame) -> list[str]:
    fields = encoding.fields or []
    if absent := [field for field in fields if field not in items]:
        raise FeatureError(
            f"the columns {', '.join(fields)} that {name} was encoded from",
            f"no {absent[0]!r}",
            "export the run again",
        )
    return fields


def encode_new(
    name: str, encoding: Encoding, encoder: Encoder, items: pd.DataFrame, pictures: Pictures | None
) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_]]:
    """Vectors ``(m, d)`` of new items, and which of them ``(m,)`` have anything to encode.

    Args:
        name: Of the table, for messages.
        encoding: How it was made.
        encoder: From :func:`open_encoder`.
        items: Rows with all columns of the catalogue.
        pictures: In mode RGB, one for each item or None; None: no item has one.
    """
    texts: list[str | None] = [None] * len(items)
    if encoding.modality in ("text", "joint"):
        texts = [text or None for text in join_texts(items, _columns(name, encoding, items))]
    images: Pictures = [None] * len(items)
    if encoding.modality in ("image", "joint") and pictures is not None:
        images = pictures
    pairs = list(zip(texts, images, strict=True))
    rows = [row for row, pair in enumerate(pairs) if pair != (None, None)]
    values: list[Any] = [pairs[row] for row in rows]
    if encoding.modality != "joint":
        values = [text if encoding.modality == "text" else image for text, image in values]
    blocks = [encoder.encode(values[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    present = np.zeros(len(items), dtype=np.bool_)
    if not blocks:
        return np.zeros((len(items), 0), dtype=encoding.dtype), present
    encoded = np.concatenate(blocks).astype(encoding.dtype)
    vectors = np.zeros((len(items), encoded.shape[1]), dtype=encoded.dtype)
    vectors[rows] = encoded
    return vectors, np.asarray(vectors.any(axis=1))
