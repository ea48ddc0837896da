"""Short names of models; nothing is imported until it is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from mmrec.errors import ConfigError, did_you_mean

MODELS = {
    "amr": "mmrec.models.baseline.amr:AMR",
    "bm3": "mmrec.models.graph.bm3:BM3",
    "bpr": "mmrec.models.baseline.bpr:BPR",
    "bst": "mmrec.models.ctr.bst:BST",
    "cm3": "mmrec.models.graph.cm3:CM3",
    "dcnv2": "mmrec.models.ctr.dcnv2:DCNv2",
    "deepfm": "mmrec.models.ctr.deepfm:DeepFM",
    "dgvae": "mmrec.models.graph.dgvae:DGVAE",
    "din": "mmrec.models.ctr.din:DIN",
    "dragon": "mmrec.models.graph.dragon:DRAGON",
    "ease": "mmrec.models.baseline.ease:EASE",
    "finalmlp": "mmrec.models.ctr.finalmlp:FinalMLP",
    "fm": "mmrec.models.ctr.fm:FM",
    "freedom": "mmrec.models.graph.freedom:FREEDOM",
    "graphvectors": "mmrec.models.generative.graph_vectors:GraphVectors",
    "gru4rec": "mmrec.models.sequence.gru4rec:GRU4Rec",
    "gume": "mmrec.models.graph.gume:GUME",
    "hstu": "mmrec.models.sequence.hstu:HSTU",
    "itemknn": "mmrec.models.baseline.itemknn:ItemKNN",
    "lattice": "mmrec.models.graph.lattice:LATTICE",
    "lgmrec": "mmrec.models.graph.lgmrec:LGMRec",
    "liger": "mmrec.models.generative.liger:LIGER",
    "lightgcn": "mmrec.models.graph.lightgcn:LightGCN",
    "lirdrec": "mmrec.models.graph.lirdrec:LIRDRec",
    "lr": "mmrec.models.ctr.lr:LR",
    "mentor": "mmrec.models.graph.mentor:MENTOR",
    "mgcn": "mmrec.models.graph.mgcn:MGCN",
    "mmgcf": "mmrec.models.graph.mmgcf:MMGCF",
    "mmgrec": "mmrec.models.generative.mmgrec:MMGRec",
    "molar": "mmrec.models.sequence.molar:Molar",
    "mscgrec": "mmrec.models.generative.mscgrec:MSCGRec",
    "multvae": "mmrec.models.baseline.multvae:MultVAE",
    "pgl": "mmrec.models.graph.pgl:PGL",
    "popularity": "mmrec.models.baseline.popularity:Popularity",
    "qin": "mmrec.models.ctr.qin:QIN",
    "rp3beta": "mmrec.models.baseline.rp3beta:RP3Beta",
    "rpg": "mmrec.models.generative.rpg:RPG",
    "sasrec": "mmrec.models.sequence.sasrec:SASRec",
    "siger": "mmrec.models.graph.siger:SIGER",
    "sim": "mmrec.models.ctr.sim:SIM",
    "slim": "mmrec.models.baseline.slim:SLIM",
    "slmrec": "mmrec.models.graph.slmrec:SLMRec",
    "smore": "mmrec.models.graph.smore:SMORE",
    "tiger": "mmrec.models.generative.tiger:TIGER",
    "transformerdcn": "mmrec.models.ctr.transformer_dcn:TransformerDCN",
    "unisrec": "mmrec.models.sequence.unisrec:UniSRec",
    "vbpr": "mmrec.models.graph.vbpr:VBPR",
}
DECLARED = ("config_type", "batches", "modalities", "cold_items")  # by every model class


def load_class(path: str) -> Any:
    """Import ``package.module:Class``.

    Raises:
        ConfigError: No such module or class.
    """
    module_name, _, class_name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            "an import path package.module:Class", f"{path!r}: {error}", "check the spelling and PYTHONPATH"
        ) from None


def model_class(name: str) -> Any:
    """The class of a short name, of an import path ``package.module:Class``, or of RecBole (``recbole:NAME``).

    Raises:
        ConfigError: Unknown name, or no model.
    """
    if name.startswith("recbole:"):
        from mmrec.interop import recbole

        return recbole.model_class(name)
    if ":" in name:
        model = load_class(name)
        lacking = [attribute for attribute in DECLARED if not hasattr(model, attribute)]
        if lacking:
            raise ConfigError(
                f"a model class with {', '.join(DECLARED)}",
                f"{name!r} without {', '.join(lacking)}",
                "declare them as mmrec/models/contracts.py says",
            )
        return model
    if name not in MODELS:
        raise ConfigError(
            "a model name or package.module:Class", repr(name), did_you_mean(name, list(MODELS))
        )
    return load_class(MODELS[name])


def describe_models() -> list[dict[str, Any]]:
    """One entry per short name: contract, batches, modalities, cold items, hyper-parameters."""
    from mmrec.models.contracts import contract_of

    entries = []
    for name in MODELS:
        model = model_class(name)
        fields = model.config_type.model_fields
        entries.append(
            {
                "name": name,
                "contract": contract_of(model),
                "batches": model.batches,
                "modalities": model.modalities,
                "cold_items": model.cold_items,
                "summary": (model.__doc__ or "").strip().splitlines()[0],
                "params": {
                    key: {"default": field.default, "meaning": field.description}
                    for key, field in fields.items()
                },
            }
        )
    return entries
