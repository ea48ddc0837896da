"""Pictures as tensors: read from a dataset, cropped at random, and turned into vectors by a small or a given network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmrec.codes.quantiser import Rows, Tensors
from mmrec.data.dataset import Dataset
from mmrec.errors import FeatureError
from mmrec.progress import Progress

Pictures = NDArray[np.uint8]

BATCH = 256
JITTER = 0.4  # brightness and contrast of a crop change by up to this share
_WIDTHS = (32, 64, 128, 192)


def read_pictures(
    dataset: Dataset, size: int, *, show_progress: bool = True
) -> tuple[Pictures, NDArray[np.bool_], str]:
    """The middle square of each item's picture, ``(n_items, 3, size, size)``; which there are ``(n_items,)``; their hash.

    Items without a readable picture have zeros.

    Raises:
        FeatureError: No item has one.
    """
    from PIL import Image, ImageOps

    from mmrec.encode.inputs import collect_inputs, read_batches

    inputs = collect_inputs(dataset, "image", None, show_progress=show_progress)
    pictures = np.zeros((dataset.n_items, 3, size, size), dtype=np.uint8)
    present = np.zeros(dataset.n_items, dtype=np.bool_)
    batches = np.array_split(np.arange(len(inputs.rows)), -(-len(inputs.rows) // BATCH))
    with Progress("read pictures", len(inputs.rows), show=show_progress) as progress:
        for batch in read_batches(inputs, batches):
            items = inputs.rows[batch.positions[batch.usable]]
            present[items] = True
            for item, picture in zip(items, batch.values, strict=True):
                square = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
                pictures[item] = np.asarray(square).transpose(2, 0, 1)
            progress.advance(len(batch.positions))
    if not present.any():
        raise FeatureError(
            "at least one readable picture",
            f"none of {len(inputs.rows):,} in {dataset.images}",
            "check the picture folder",
        )
    return pictures, present, str(inputs.manifest["sha256"])


def random_crops(
    pictures: Tensor, size: int, area: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """A random crop ``(b, 3, size, size)`` of each picture ``(b, 3, s, s)``: place, area, shape, mirror and light.

    Args:
        pictures: Values about 0.
        size: Height and width of the crops.
        area: Smallest and largest share of a picture's area.
        generator: All draws.
    """

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(pictures)).uniform_(low, high, generator=generator)

    side, shape = draw(*area).sqrt(), draw(-0.29, 0.29).mul(0.5).exp()  # width to height from 3/4 to 4/3
    width, height = (side * shape).clamp(max=1), (side / shape).clamp(max=1)
    maps = torch.zeros(len(pictures), 2, 3)
    maps[:, 0, 0] = width * (draw(0, 1) < 0.5).float().mul(2).sub(1)
    maps[:, 1, 1] = height
    maps[:, 0, 2], maps[:, 1, 2] = draw(-1, 1) * (1 - width), draw(-1, 1) * (1 - height)
    grid = F.affine_grid(maps, [len(pictures), 3, size, size], align_corners=False)
    crops = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    contrast, light = draw(1 - JITTER, 1 + JITTER), draw(-JITTER, JITTER)
    return crops * contrast[:, None, None, None] + light[:, None, None, None]


class PictureEncoder(nn.Module):
    """A vector of mean 0 and variance 1 over its entries for each picture of any size.

    Args:
        dim: Width of the vectors.
        backbone: ``small`` (four convolutions with group normalisation), or a vision model of transformers: a folder or
            hub id, whose weights are read.
        config: The configuration of such a model; its weights are then not read but expected by ``load_state_dict``.

    Raises:
        FeatureError: No such model.
    """

    kind: ClassVar[str] = "pictures"

    def __init__(self, dim: int, backbone: str = "small", config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.dim, self.backbone, self.config = dim, backbone, config
        self.size = 0  # of the pictures that embed takes; set by who trains it
        self.pooler_trained = True
        if backbone == "small":
            self.network: Any = _small()
            width = _WIDTHS[-1]
        else:
            self.network, self.config = self._pretrained(backbone, config)
            with torch.no_grad():
                width = self._pool(torch.zeros(1, 3, 64, 64)).shape[1]
        self.map = nn.Linear(width, dim)

    def _pretrained(self, name: str, config: Mapping[str, Any] | None) -> tuple[Any, Mapping[str, Any]]:
        from transformers import AutoConfig, AutoModel

        from mmrec.encode.pretrained import find_source, load_model

        if config is not None:
            values = {key: value for key, value in config.items() if key != "pooler_trained"}
            self.pooler_trained = bool(config["pooler_trained"])
            return AutoModel.from_config(AutoConfig.for_model(**values)), config
        source = find_source(name)
        model, self.pooler_trained = load_model(source, torch.device("cpu"))
        return model, {**source.config.to_dict(), "pooler_trained": self.pooler_trained}

    def _pool(self, pictures: Tensor) -> Tensor:
        if self.backbone == "small":
            pooled: Tensor = self.network(pictures).mean((2, 3))
            return pooled
        from mmrec.encode.image import pooled_output

        return pooled_output(self.network(pixel_values=pictures), pooler_trained=self.pooler_trained)

    def forward(self, pictures: Tensor) -> Tensor:
        """Vectors ``(b, dim)`` of pictures ``(b, 3, s, s)`` with values from -1 to 1."""
        # of one length, so that no term of a loss can be made small by making all vectors short
        return F.layer_norm(self.map(self._pool(pictures)), (self.dim,))

    @torch.no_grad()
    def embed(self, inputs: Rows | Pictures) -> Rows:
        """Vectors ``(n, dim)`` of pictures ``(n, 3, s, s)`` with values from 0 to 255; zero for pictures of zeros.

        Raises:
            FeatureError: Another shape.
        """
        if inputs.ndim != 4 or inputs.shape[1:] != (3, self.size, self.size):
            raise FeatureError(
                f"pictures (n, 3, {self.size}, {self.size}) with values from 0 to 255",
                f"shape {inputs.shape}",
                "read them with mmrec.codes.pictures.read_pictures",
            )
        self.eval()
        rows = [self(scale(inputs[start : start + BATCH])) for start in range(0, len(inputs), BATCH)]
        vectors = torch.cat(rows) if rows else torch.zeros(0, self.dim)
        there = torch.from_numpy(inputs.reshape(len(inputs), -1).any(axis=1))
        return np.asarray((vectors * there[:, None]).numpy())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        config = None if self.config is None else dict(self.config)
        return self.state_dict(), {
            "dim": self.dim,
            "backbone": self.backbone,
            "config": config,
            "size": self.size,
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The encoder that gave this state."""
        with torch.random.fork_rng(devices=[]):
            model = cls(metadata["dim"], metadata["backbone"], metadata["config"])
        model.size = metadata["size"]
        model.load_state_dict(dict(tensors))
        return model.eval()


def scale(pictures: Rows | Pictures) -> Tensor:
    """Pictures with values from 0 to 255 as float32 with values from -1 to 1."""
    return torch.from_numpy(np.asarray(pictures, dtype=np.float32)) / 127.5 - 1


def _small() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in _WIDTHS:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.GELU()]
        before = width
    return nn.Sequential(*layers)
