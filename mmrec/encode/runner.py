"""Encode a dataset's pictures or texts to a feature table: in shards, resumable, the same bits each time."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import Dataset
from mmrec.encode.encoders import (
    Encoder,
    EncoderOptions,
    check_at_least,
    check_choice,
    check_name,
    choose_encoder,
)
from mmrec.encode.features import FeatureTable
from mmrec.encode.inputs import Batch, Ids, Inputs, collect_inputs, read_batches
from mmrec.encode.pictures import Reason, quiet_decoding
from mmrec.encode.shards import Shard, Workplace, open_workplace
from mmrec.errors import FeatureError
from mmrec.files import content_hash, read_json
from mmrec.memory import keep_freed_memory
from mmrec.progress import Progress, note

_EXAMPLES = 5  # pictures named in the manifest for each reason
_PACKAGES = ("mmrec", "numpy", "pillow", "scikit-learn", "torch", "transformers", "tokenizers")


@dataclass(frozen=True)
class _Work:
    """How the rows are cut: part of the plan, since the bits of a vector depend on the batch it is in."""

    batch_size: int
    shard_rows: int
    dtype: str
    show_progress: bool


def encode(
    dataset: Dataset | str | Path,
    *,
    modality: str = "text",
    encoder: str | Encoder = "tfidf",
    name: str | None = None,
    fields: Sequence[str] | None = None,
    pooling: str = "mean",
    prompt: str = "",
    normalize: bool = True,
    max_length: int | None = 256,
    batch_size: int = 64,
    dtype: str = "float32",
    device: str | None = None,
    precision: str = "auto",
    dim: int | None = None,
    shard_rows: int = 1024,
    overwrite: bool = False,
    show_progress: bool = True,
) -> FeatureTable:
    """Encode texts, pictures or both to ``features/NAME`` of a dataset, one vector per item.

    The work goes in shards. Killed at any moment and called again, it continues at the first missing shard and
    ends with the same bits (on the same machine and number of threads). Called again when it is finished it
    returns at once. Items without input, and unreadable pictures, are absent in the mask; their rows are zero.

    Args:
        dataset: Dataset or its folder.
        modality: ``text``, ``image``, or ``joint`` (one vector from both, CLIP and SigLIP).
        encoder: ``tfidf``, ``words``, ``histogram``, a model folder, a hub id, ``package.module:Class``, or an encoder.
        name: Folder name under ``features``; None: made from modality and encoder.
        fields: Text columns in the order they are joined; None: all of kind ``text``, then all of kind ``tokens``.
        pooling: ``mean``, ``cls`` or ``last``, of text models.
        prompt: Instruction put before each text, as it is.
        normalize: Scale vectors to length one.
        max_length: Longest text in tokens; None: what the model can take.
        batch_size: Inputs encoded at once.
        dtype: Stored type, ``float32`` or ``float16``.
        device: ``cpu``, ``cuda``, …; None: the GPU where there is one.
        precision: ``float32``, ``bfloat16``, or ``auto``: bfloat16 where the device computes in it.
        dim: Width of ``tfidf`` vectors (None: 128), number of ``words`` at most (None: 2000).
        shard_rows: Inputs per shard: what a kill can cost at most.
        overwrite: Replace features of that name that were made in another way.
        show_progress: Show progress and a summary on stderr.

    Returns:
        The feature table, memory-mapped.

    Raises:
        FeatureError: No such encoder or input, features of that name made in another way, vectors that are
            not finite.
        ConfigError: An option out of its range.
        DiskError: The disk is full; finished shards are kept.
    """
    options = EncoderOptions(modality, pooling, prompt, normalize, max_length, device, precision, dim)
    check_at_least("batch_size", batch_size, 1)
    check_at_least("shard_rows", shard_rows, 1)
    check_choice("dtype", dtype, ("float32", "float16"))
    work = _Work(batch_size, shard_rows, dtype, show_progress)
    made = choose_encoder(encoder, options)
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    target = feature_folder(
        data, name or _default_name(modality, str(made.describe().get("name", "encoder")))
    )
    inputs = collect_inputs(data, modality, fields, show_progress=show_progress)
    plan = {
        "content": {
            "modality": modality,
            "encoder": dict(made.describe()),
            "inputs": inputs.manifest,
            "dtype": dtype,
        },
        "work": {
            "batch_size": batch_size,
            "shard_rows": shard_rows,
            "device": device,
            "versions": _versions(),
        },
    }
    key = content_hash(plan["content"])
    with open_workplace(target, plan) as workplace:
        finished = find_finished(workplace, key, data.n_items, overwrite=overwrite)
        if finished is not None:
            note(f"{target} is already encoded")
            return finished
        return _run(workplace, key, made, inputs, work, data.n_items)


def _run(
    workplace: Workplace, key: str, encoder: Encoder, inputs: Inputs, work: _Work, n_items: int
) -> FeatureTable:
    keep_freed_memory()
    order, n_cut = _prepare(workplace, encoder, inputs)
    shards = [order[start : start + work.shard_rows] for start in range(0, len(order), work.shard_rows)]
    if hint := encoder.describe().get("note"):
        note(f"note: {hint}")
    if hasattr(encoder, "fit"):
        encoder.fit(inputs.texts)
    try:
        with quiet_decoding():
            _encode_shards(workplace, encoder, inputs, shards, work)
    except KeyboardInterrupt:
        done = sum(workplace.has_shard(index) for index in range(len(shards)))
        note(f"\nstopped: {done} of {len(shards)} shards are kept; the same command goes on from there")
        raise
    width, absent = _count(workplace, inputs, len(shards), n_items)
    manifest = {
        "name": workplace.target.name,
        "key": key,
        **workplace.plan["content"],
        "work": workplace.plan["work"],
        "absent": absent,
        "cut": n_cut,
        **(encoder.learned() if hasattr(encoder, "learned") else {}),
    }
    table = workplace.finish(
        encoder.modality, manifest, (n_items, width), work.dtype, _blocks(workplace, len(shards))
    )
    if work.show_progress:
        note(describe_table(table))
    return table


def _prepare(workplace: Workplace, encoder: Encoder, inputs: Inputs) -> tuple[Ids, int | None]:
    """Start or resume, and put the inputs in order: longest texts first, so that batches hold equal lengths.

    The order is a function of the inputs alone, never of where an earlier run stopped.

    Returns:
        Positions of the inputs in the order they are encoded, and how many texts are longer than the encoder takes.
    """
    if workplace.holds_other_plan():
        note(
            f"{workplace.target.name}: inputs, settings or libraries changed since the interrupted run; starting anew"
        )
    if not workplace.holds_plan():
        workplace.start(_lengths(encoder, inputs))
    lengths = workplace.lengths()
    if lengths is None:
        return np.arange(len(inputs.rows)), None
    limit = encoder.describe().get("max_length")
    n_cut = int((lengths > limit).sum()) if limit else None
    if n_cut:
        note(f"note: {n_cut:,} of {len(lengths):,} texts are longer than {limit} tokens and are cut")
    return np.argsort(-lengths, kind="stable"), n_cut


def _lengths(encoder: Encoder, inputs: Inputs) -> NDArray[np.int64] | None:
    if inputs.texts is None:
        return None
    measure = getattr(encoder, "lengths", None)
    if measure is not None:
        return np.asarray(measure(inputs.texts), dtype=np.int64)
    return np.array([len(text) for text in inputs.texts], dtype=np.int64)


def _encode_shards(
    workplace: Workplace, encoder: Encoder, inputs: Inputs, shards: Sequence[Ids], work: _Work
) -> None:
    missing = [index for index in range(len(shards)) if not workplace.has_shard(index)]
    if not missing:
        return
    done = sum(map(len, shards)) - sum(len(shards[index]) for index in missing)
    if done:
        note(f"resuming: {len(shards) - len(missing)} of {len(shards)} shards are done")
    title = f"encode {encoder.modality}"
    with Progress(title, len(inputs.rows), done=done, show=work.show_progress) as progress:
        for index in missing:
            positions = shards[index]
            batches = [positions[i : i + work.batch_size] for i in range(0, len(positions), work.batch_size)]
            encoded = []
            for batch in read_batches(inputs, batches):
                encoded.append(_encode_batch(encoder, inputs, batch, work.dtype))
                progress.advance(len(batch.positions))
            workplace.write_shard(index, _join(encoded))


def _encode_batch(encoder: Encoder, inputs: Inputs, batch: Batch, dtype: str) -> Shard:
    """Vectors of a batch in the stored type, without the inputs that gave none."""
    items = inputs.rows[batch.positions[batch.usable]]
    if not len(items):
        return Shard(items, np.zeros((0, 0), dtype=dtype), batch.reasons, batch.positions)
    vectors = np.asarray(encoder.encode(batch.values))
    if vectors.ndim != 2 or len(vectors) != len(items) or not vectors.shape[1]:
        raise FeatureError(
            f"an array ({len(items)}, d) from the encoder",
            f"shape {vectors.shape}",
            "correct its encode method",
        )
    with np.errstate(over="ignore"):
        vectors = vectors.astype(dtype)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"finite numbers in {dtype}",
            f"NaN or infinity for item number {items[bad[0]]}",
            "encode with --precision float32 --dtype float32, or choose another encoder",
        )
    full = vectors.any(axis=1)
    return Shard(items[full], vectors[full], batch.reasons, batch.positions)


def _join(parts: Sequence[Shard]) -> Shard:
    width = max(part.vectors.shape[1] for part in parts)
    full = [part.vectors for part in parts if len(part.vectors)]
    vectors = np.concatenate(full) if full else np.zeros((0, width), dtype=parts[0].vectors.dtype)
    return Shard(
        np.concatenate([part.items for part in parts]),
        vectors,
        np.concatenate([part.reasons for part in parts]),
        np.concatenate([part.positions for part in parts]),
    )


def _count(workplace: Workplace, inputs: Inputs, n_shards: int, n_items: int) -> tuple[int, dict[str, Any]]:
    """Width of the vectors, and why items are absent, with the names of a few unreadable pictures.

    Raises:
        FeatureError: No item has a vector.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    width = n_present = 0
    for index in range(n_shards):
        shard = workplace.read_shard(index)
        width = max(width, shard.vectors.shape[1])
        n_present += len(shard.items)
        for reason in Reason:
            hit = shard.positions[shard.reasons == reason]
            if reason is Reason.OK or not len(hit) or inputs.pictures is None:
                continue
            counts[reason.words] += len(hit)
            names = examples.setdefault(reason.words, [])
            names.extend(str(Path(str(inputs.pictures[p])).name) for p in hit[: _EXAMPLES - len(names)])
    absent: dict[str, Any] = {"items": n_items - n_present, "no input": n_items - len(inputs.rows)}
    if counts:
        absent |= {"pictures": dict(sorted(counts.items())), "examples": examples}
    if not n_present:
        reasons = (
            ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
            or "nothing to encode in them"
        )
        workplace.discard()
        raise FeatureError(
            "at least one item with a vector",
            f"none of {len(inputs.rows):,} inputs: {reasons}",
            "check the picture folder or the text columns",
        )
    return width, absent


def _blocks(workplace: Workplace, n_shards: int) -> Iterator[tuple[Ids, NDArray[np.floating[Any]]]]:
    for index in range(n_shards):
        shard = workplace.read_shard(index)
        yield shard.items, shard.vectors


def find_finished(workplace: Workplace, key: str, n_items: int, *, overwrite: bool) -> FeatureTable | None:
    """The finished features where they were made from the same inputs in the same way.

    Raises:
        FeatureError: Features of that name were made in another way, and are not to be replaced.
    """
    target = workplace.target
    if overwrite or not target.exists():
        return None
    manifest: Mapping[str, Any] = {}
    if (target / "manifest.json").is_file():
        manifest = read_json(target / "manifest.json")
    if manifest.get("key") != key:
        encoder = manifest.get("encoder", "an unknown encoder")
        made = encoder.get("name") if isinstance(encoder, dict) else encoder
        raise FeatureError(
            f"no features {target.name!r} yet, or ones made in this way from these inputs",
            f"{target} made by {made} from other inputs or settings",
            "choose another --name, or add --overwrite to replace them",
        )
    workplace.discard()  # a run that was killed between the last rename and cleaning up left it
    return FeatureTable.open(target, n_items=n_items)


def feature_folder(dataset: Dataset, name: str) -> Path:
    """Folder of the features called ``name``.

    Raises:
        ConfigError: The name cannot be a folder's.
    """
    check_name(name, "text-minilm")
    return dataset.path / "features" / name


def _default_name(modality: str, encoder: str) -> str:
    short = re.sub(r"[^a-z0-9.]+", "-", encoder.split("/")[-1].split(":")[-1].lower()).strip("-.")
    return f"{modality}-{short}"


def describe_table(table: FeatureTable) -> str:
    """One line: how many items have a vector, and why the others have none."""
    absent = table.manifest.get("absent", {})
    why = {"no input": absent.get("no input", 0), **absent.get("pictures", {})}
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in why.items() if count)
    return (
        f"{table.name}: {int(table.present.sum()):,} of {len(table.present):,} items have a vector of width {table.dim}"
        + (f" ({reasons})" if reasons else "")
    )


def _versions() -> dict[str, str]:
    """Versions of the libraries that can change a bit of the result."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
