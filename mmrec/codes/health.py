"""How good a table of codes is: measured in seconds, printed, saved, and refused where codes have collapsed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.codes.collisions import group_sizes
from mmrec.codes.quantiser import Codes, Rows
from mmrec.errors import FeatureError
from mmrec.files import read_json

LEAST_USAGE = 0.5
NEIGHBOURS = 10
SAMPLE = 2000  # items whose neighbours are compared


@dataclass(frozen=True)
class Level:
    """How one level's codes are used by the items with content.

    Attributes:
        size: Codes of the level.
        usage: Share of them in use, of those that could be (no more than there are distinct vectors).
        perplexity: ``exp(-Σ p log p)`` of the codes' shares p: how many codes it would be if all were used alike.
        balance: ``log perplexity / log size``: 1 where all codes are used alike.
        prefixes: Distinct tuples of codes up to this level.
    """

    size: int
    usage: float
    perplexity: float
    balance: float
    prefixes: int


@dataclass(frozen=True)
class Health:
    """A health report.

    Attributes:
        items: Items of the catalogue.
        absent: Items without any content; they get the codes of a zero vector.
        distinct: Distinct vectors among the others.
        levels: One entry for each level of the quantiser.
        colliding: Share of the items with content whose codes another one has as well, before that was resolved.
        largest_before: Most items with the same codes before collisions were resolved, and
        largest_after: with the same codes on the quantiser's levels afterwards.
        added_level: Codes of the level added to tell items apart; 0 without one.
        reconstruction: ``Σ |x - x̂|² / Σ |x - mean|²``: 0 is lossless, 1 no better than one code for all.
        neighbourhood: Share of an item's 10 nearest items that are also its nearest by what codes stand for.
        notes: Numbers of the method's training.
        seconds: What learning the quantiser took, and this report.
    """

    items: int
    absent: int
    distinct: int
    levels: list[Level]
    colliding: float
    largest_before: int
    largest_after: int
    added_level: int
    reconstruction: float
    neighbourhood: float
    notes: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def to_plain(self) -> str:
        """As text for people."""
        lines = [
            f"{self.items:,} items, {self.absent:,} without content, {self.distinct:,} distinct vectors",
            "level   codes   in use  perplexity  balance  prefixes",
        ]
        lines += [
            f"{number:>5} {level.size:>7,} {level.usage:>8.1%} {level.perplexity:>11.1f} {level.balance:>8.3f}"
            f" {level.prefixes:>9,}"
            for number, level in enumerate(self.levels, 1)
        ]
        added = f", told apart by {self.added_level:,} codes of one more level" if self.added_level else ""
        lines += [
            f"same codes      {self.colliding:.2%} of items; largest group {self.largest_before:,}, "
            f"afterwards {self.largest_after:,}{added}",
            f"reconstruction  {self.reconstruction:.3f} of the variance is lost",
            f"neighbourhood   {self.neighbourhood:.1%} of the {NEIGHBOURS} nearest items are kept",
        ]
        if self.seconds:
            lines.append("seconds         " + ", ".join(f"{k} {v:.1f}" for k, v in self.seconds.items()))
        return "\n".join(lines)


def read_health(folder: Path) -> Health:
    """The report in a folder of codes.

    Raises:
        DataError: There is none, or it is damaged.
    """
    document = read_json(folder / "health.json")
    return Health(**{**document, "levels": [Level(**level) for level in document["levels"]]})


def measure(
    vectors: Rows,
    present: NDArray[np.bool_],
    codes: Codes,
    rebuilt: Rows,
    sizes: tuple[int, ...],
    final: Codes,
    final_sizes: tuple[int, ...],
    *,
    generator: torch.Generator,
    notes: Mapping[str, Any] | None = None,
) -> Health:
    """Measure codes.

    Args:
        vectors: ``(n_items, d)`` what was quantised.
        present: ``(n_items,)`` items with content; the others do not count.
        codes: ``(n_items, levels)`` as quantised.
        rebuilt: ``(n_items, d)`` what they stand for.
        sizes: Codes of each level.
        final: ``(n_items, levels or levels + 1)`` after collisions were resolved.
        final_sizes: Codes of each of its levels.
        generator: Draws the items whose neighbours are compared.
        notes: Numbers of the method's training.
    """
    own, rows = codes[present], np.asarray(vectors[present], dtype=np.float32)
    distinct = len(np.unique(rows, axis=0))
    groups = group_sizes(own)
    spread = float(np.square(rows - rows.mean(0), dtype=np.float64).sum())
    lost = float(np.square(rows - rebuilt[present], dtype=np.float64).sum())
    added = final.shape[1] > len(sizes)
    return Health(
        items=len(codes),
        absent=int((~present).sum()),
        distinct=distinct,
        levels=[_level(own, level, size, distinct) for level, size in enumerate(sizes)],
        colliding=float((groups > 1).mean()),
        largest_before=int(groups.max()),
        largest_after=int(group_sizes(final[present][:, : len(sizes)]).max()),
        added_level=final_sizes[-1] if added else 0,
        reconstruction=lost / spread if spread else 0.0,
        neighbourhood=_kept_neighbours(rows, rebuilt[present], generator),
        notes=notes or {},
    )


def _level(codes: Codes, level: int, size: int, distinct: int) -> Level:
    shares = np.bincount(codes[:, level], minlength=size) / len(codes)
    used = shares[shares > 0]
    entropy = float(-(used * np.log(used)).sum())
    prefixes = len(np.unique(codes[:, : level + 1], axis=0))
    return Level(size, len(used) / min(size, distinct), math.exp(entropy), entropy / math.log(size), prefixes)


def _kept_neighbours(rows: Rows, rebuilt: Rows, generator: torch.Generator) -> float:
    """Mean share of the nearest items by cosine that are the same by both; ties of the second go to lower ids."""
    k = min(NEIGHBOURS, len(rows) - 1)
    if k < 1:
        return 1.0
    drawn = torch.randperm(len(rows), generator=generator)[:SAMPLE]
    found = []
    for view in (rows, np.asarray(rebuilt, dtype=np.float32)):
        unit = torch.nn.functional.normalize(torch.from_numpy(np.array(view)), dim=1)
        cosines = unit[drawn] @ unit.T
        cosines[torch.arange(len(drawn)), drawn] = -torch.inf
        marks = torch.zeros_like(cosines, dtype=torch.bool)
        found.append(marks.scatter_(1, cosines.topk(k).indices, True))
    return float((found[0] & found[1]).sum() / (k * len(drawn)))


def check(health: Health) -> None:
    """Check that codes have not collapsed.

    Raises:
        FeatureError: A level uses less than half of the codes it could use.
    """
    for number, level in enumerate(health.levels, 1):
        if level.usage < LEAST_USAGE:
            raise FeatureError(
                f"at least {LEAST_USAGE:.0%} of a level's codes in use",
                f"{level.usage:.1%} of {level.size:,} on level {number}: the codes have collapsed\n"
                + health.to_plain(),
                "choose --method residual-kmeans or a smaller --size, train longer, or keep them: --allow-collapse",
            )
