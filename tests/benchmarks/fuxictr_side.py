"""FuxiCTR 2.3 trained for one epoch on rows of ``planted_clicks``; runs in an environment of its own.

``python fuxictr_side.py SETTINGS.json`` prints one line of JSON. Loop, optimiser, regulariser, clipping, loaders and
networks are FuxiCTR's; the network of DCNv2, which the wheel holds for histories only, reads fields alone here.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR import DIN, DCNv2
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

WARM_BATCHES = 2


class FieldsDCNv2(DCNv2):
    """DCNv2 over the fields of a row."""

    get_inputs, get_labels, train_step = BaseModel.get_inputs, BaseModel.get_labels, BaseModel.train_step

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Probabilities of a batch."""
        flat = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        both = torch.cat([self.crossnet(flat), self.parallel_dnn(flat)], dim=-1)
        return {"y_pred": self.output_activation(self.fc(both))}


def timed(kind: type[BaseModel]) -> type[BaseModel]:
    """The model, measuring its epoch from the first look at the loader to the validation that ends it."""

    class Timed(kind):  # type: ignore[valid-type, misc]
        def train_epoch(self, data_generator: Any) -> None:
            self.started = time.perf_counter()
            super().train_epoch(data_generator)

        def eval_step(self) -> None:
            self.seconds = time.perf_counter() - self.started
            super().eval_step()

    return Timed


def feature_map(shape: dict[str, Any], folder: Path, dim: int) -> FeatureMap:
    """What the columns are."""

    def categories(source: str, sizes: dict[str, int]) -> list[dict[str, Any]]:
        kind = {"type": "categorical", "source": source, "padding_idx": 0}
        return [{name: {**kind, "vocab_size": size}} for name, size in sizes.items()]

    features = categories("user", shape["fields"])
    if "items" in shape:
        places = ("user_index", "item_index", "seq_len")
        features += [{name: {"type": "meta", "source": ""}} for name in places]
        features += categories("item", shape["items"])
    document = {"dataset_id": "clicks", "labels": ["label"], "features": features}
    file = folder / "feature_map.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    found = FeatureMap("clicks", str(folder))
    found.load(str(file), {"embedding_dim": dim})
    return found


def write_fields(parts: dict[str, pd.DataFrame], folder: Path) -> dict[str, Any]:
    """Rows of fields as arrays; gives what their loader is told."""
    for part, table in parts.items():
        np.savez(folder / f"{part}.npz", **{name: table[name].to_numpy() for name in table.columns})
    return {f"{part}_data": str(folder / f"{part}.npz") for part in parts}


def write_histories(parts: dict[str, pd.DataFrame], items: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Rows that point to their item and history, items, histories; gives what their loader is told."""
    nothing = pd.DataFrame({name: [0] for name in items.columns})
    padded = pd.concat([nothing, items]).assign(item_index=lambda table: table["item"])
    padded.to_parquet(folder / "items.parquet")
    histories = pd.concat([table["history"] for table in parts.values()], ignore_index=True)
    pd.DataFrame({"full_item_seq": histories}).to_parquet(folder / "users.parquet")
    first = 0
    for part, table in parts.items():
        rows = table.drop(columns="history").rename(columns={"item": "item_index"})
        own = {"user_index": first + np.arange(len(rows)), "seq_len": table["history"].str.len()}
        rows.assign(**own).to_parquet(folder / f"{part}.parquet")
        first += len(rows)
    files = {f"{part}_data": str(folder / f"{part}.parquet") for part in parts}
    info = {"user_info": str(folder / "users.parquet"), "item_info": str(folder / "items.parquet")}
    return {**files, **info, "data_loader": LongCTRDataLoader}


def fit(
    settings: dict[str, Any], shape: dict[str, Any], folder: Path, *, rows: int | None
) -> tuple[Any, Any]:
    """A model after one epoch over the first rows, or all; and the loader of the validation rows."""
    folder.mkdir()
    source = Path(settings["folder"])
    parts = {part: pd.read_parquet(source / f"{part}.parquet").head(rows) for part in ("train", "valid")}
    if "items" in shape:
        told = write_histories(parts, pd.read_parquet(source / "items.parquet"), folder)
        told["max_len"] = shape["longest"]
    else:
        told = write_fields(parts, folder)
    fields = feature_map(shape, folder, settings["params"]["embedding_dim"])
    train, valid = RankDataLoader(fields, stage="train", batch_size=settings["batch_size"], **told)
    kind = timed(DIN if "items" in shape else FieldsDCNv2)
    seed_everything(settings["seed"])
    common = {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["AUC"], "verbose": 0}
    model = kind(fields, model_root=str(folder), **common, **settings["params"])
    Path(model.model_dir).mkdir()
    model.fit(train, validation_data=valid, epochs=1)
    return model, valid


def main() -> None:
    """Train and write the validation rows' probabilities."""
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(settings["threads"])
    shape = json.loads((Path(settings["folder"]) / "shape.json").read_text(encoding="utf-8"))
    work = Path(settings["work"])
    fit(settings, shape, work / "warm", rows=WARM_BATCHES * settings["batch_size"])
    model, valid = fit(settings, shape, work / "whole", rows=None)
    np.save(work / "probabilities.npy", model.predict(valid))
    rows = len(pd.read_parquet(Path(settings["folder"]) / "train.parquet", columns=["label"]))
    auc = model.evaluate(valid, metrics=["AUC"])["AUC"]
    print(json.dumps({"rows_per_second": rows / model.seconds, "auc": auc}))


if __name__ == "__main__":
    main()
