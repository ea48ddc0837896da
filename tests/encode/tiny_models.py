"""Tiny transformers models with random weights, saved to folders as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = [
    "a",
    "b",
    "c",
    "red",
    "green",
    "blue",
    "old",
    "new",
    "war",
    "love",
    "space",
    "ship",
    "crime",
    "night",
    "river",
    "dog",
    "cat",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def save_tokenizer(folder: Path, **options: Any) -> None:
    """A WordPiece tokenizer over :data:`VOCABULARY`."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    vocabulary = {word: number for number, word in enumerate(VOCABULARY)}
    BertTokenizerFast(vocab=vocabulary, **options).save_pretrained(folder)


def save_bert(folder: Path, *, seed: int = 0, positions: int = 32) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=positions, **TINY)
    BertModel(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_image_processor(folder: Path, name: str, **options: Any) -> None:
    import transformers

    getattr(transformers, name)(**options).save_pretrained(folder)


def save_vision(folder: Path, kind: str) -> Path:
    """``vit``, ``vit-classifier`` (no pooler in the checkpoint), ``dinov2`` or ``mobilenet``."""
    import transformers as t

    torch.manual_seed(1)
    size = {"image_size": 32, "patch_size": 8}
    if kind == "vit":
        t.ViTModel(t.ViTConfig(**size, **TINY)).save_pretrained(folder)
    elif kind == "vit-classifier":
        t.ViTForImageClassification(t.ViTConfig(**size, **TINY)).save_pretrained(folder)
    elif kind == "dinov2":
        t.Dinov2Model(t.Dinov2Config(**size, **TINY)).save_pretrained(folder)
    elif kind == "mobilenet":
        # The default scale of random weights dies out over fifty layers.
        config = t.MobileNetV2Config(image_size=32, depth_multiplier=0.25, initializer_range=0.3)
        t.MobileNetV2Model(config).save_pretrained(folder)
    processors = {"dinov2": "BitImageProcessorPil", "mobilenet": "MobileNetV2ImageProcessorPil"}
    square = {"size": {"height": 32, "width": 32}}
    cropped = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
    save_image_processor(
        folder, processors.get(kind, "ViTImageProcessorPil"), **(cropped if kind in processors else square)
    )
    return folder


def save_towers(folder: Path, kind: str) -> Path:
    """``clip`` or ``siglip``."""
    import transformers as t

    torch.manual_seed(2)
    text = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 12, **TINY}
    vision = {"image_size": 32, "patch_size": 8, **TINY}
    if kind == "clip":
        text |= {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
        t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(
            folder
        )
        crop = {"height": 32, "width": 32}
        save_image_processor(folder, "CLIPImageProcessorPil", size={"shortest_edge": 32}, crop_size=crop)
    else:
        t.SiglipModel(t.SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
        save_image_processor(folder, "SiglipImageProcessorPil", size={"height": 32, "width": 32})
    save_tokenizer(folder, model_max_length=12)
    return folder
