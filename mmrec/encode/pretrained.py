"""Models of the transformers library: where they come from, on what they run, and how their weights are read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.devices import computes_bfloat16
from mmrec.encode.encoders import EncoderOptions, list_encoders
from mmrec.errors import FeatureError, MMRecError, did_you_mean
from mmrec.files import content_hash, sha256_file

if TYPE_CHECKING:
    import torch

# What lies beside the weights and changes nothing: it does not count for a folder's revision.
_IRRELEVANT = (".md", ".png", ".jpg", ".gitattributes", ".lock", ".onnx", ".h5", ".msgpack", ".ot")


@dataclass(frozen=True)
class Source:
    """Where a model's files are.

    Attributes:
        name: Hub id, or the folder's name.
        path: What ``from_pretrained`` is given.
        revision: Commit hash on the hub, or the content hash of the folder's files.
        local: The files lie in a folder of the user's.
        config: The model's configuration (``transformers.PretrainedConfig``).
    """

    name: str
    path: str
    revision: str
    local: bool
    config: Any

    @property
    def has_towers(self) -> bool:
        """Whether the model encodes pictures and texts apart (CLIP, SigLIP and the like)."""
        from transformers import MODEL_MAPPING

        try:
            model = MODEL_MAPPING[type(self.config)]
        except KeyError:
            return False
        return hasattr(model, "get_text_features") and hasattr(model, "get_image_features")

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for every ``from_pretrained``: the same revision, and no code from the hub."""
        pinned = {} if self.local else {"revision": self.revision}
        return {"pretrained_model_name_or_path": self.path, "trust_remote_code": False, **pinned}


def find_source(name: str) -> Source:
    """Find a model by folder or hub id and read its configuration; no weights are read.

    Raises:
        FeatureError: No such model, or the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from transformers import AutoConfig

    path = Path(name).expanduser()
    if path.is_dir():
        with _loading(name, "the configuration", local=True):
            config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        return Source(path.resolve().name, str(path), f"sha256:{_hash_folder(path)}", True, config)
    with _loading(name, "the configuration", local=False):
        # The cache keeps files at …/snapshots/COMMIT/config.json: all else is read at that commit.
        commit = Path(hf_hub_download(name, "config.json")).parent.name
        config = AutoConfig.from_pretrained(name, revision=commit, trust_remote_code=False)
    return Source(name, name, commit, False, config)


def _hash_folder(folder: Path) -> str:
    """Content hash of all files that can change a model's output: configuration, vocabulary, weights."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix.lower() not in _IRRELEVANT]
    kept = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    return content_hash({f.relative_to(folder).as_posix(): sha256_file(f) for f in kept})


def load_model(source: Source, device: torch.device) -> tuple[Any, bool]:
    """Read a model's weights in float32, in evaluation mode, onto the device.

    Returns:
        The model, and whether its pooling layer was in the checkpoint (a classifier's often has none, and
        the library then draws random weights for it).

    Raises:
        FeatureError: The weights cannot be read or do not belong to the configuration.
    """
    from transformers import AutoModel

    with _loading(source.name, "the weights", local=source.local):
        # Encoder-decoder models (T5) are read whole and the decoder is dropped: what of it the checkpoint
        # lacks does not matter.
        model, info = AutoModel.from_pretrained(**source.arguments, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    pooler = [key for key in missing if "pooler" in key]
    if getattr(source.config, "is_encoder_decoder", False):
        model = model.get_encoder()
        missing = [key for key in missing if key.startswith("encoder.")]
    lost = [key for key in missing if key not in pooler]
    if lost:
        raise FeatureError(
            f"all weights of {source.config.model_type} in {source.name}",
            f"{len(lost)} missing, for example {lost[0]}",
            "give a checkpoint whose weights belong to its config.json",
        )
    return model.float().eval().to(device), not pooler


def load_tokenizer(source: Source) -> Any:
    """Read a model's tokenizer, with a padding token.

    Raises:
        FeatureError: The files are missing or damaged.
    """
    from transformers import AutoTokenizer

    instead = "give --modality image if this is a picture model, or "
    with _loading(source.name, "the tokenizer", local=source.local, instead=instead):
        tokenizer = AutoTokenizer.from_pretrained(**source.arguments)
    if tokenizer.pad_token is None:  # decoder-only models: any token does, the attention mask hides it
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_processor(source: Source) -> Any:
    """Read a model's picture preprocessing, the variant that needs no torchvision.

    Raises:
        FeatureError: The files are missing or damaged.
    """
    import transformers
    from transformers import AutoImageProcessor

    modern = int(transformers.__version__.split(".")[0]) >= 5
    variant: dict[str, Any] = {"backend": "pil"} if modern else {"use_fast": False}
    instead = "give --modality text if this is a text model, or "
    with _loading(source.name, "the picture preprocessing", local=source.local, instead=instead):
        return AutoImageProcessor.from_pretrained(**source.arguments, **variant)


def published_pooling(source: Source) -> str | None:
    """The pooling that a sentence-transformers model was trained with, where its files say so."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    name = "1_Pooling/config.json"
    try:
        local = source.path if source.local else None
        file = (
            Path(local, name) if local else Path(hf_hub_download(source.path, name, revision=source.revision))
        )
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, HfHubHTTPError):  # another kind of model, or no network
        return None
    modes = {
        "mean": "pooling_mode_mean_tokens",
        "cls": "pooling_mode_cls_token",
        "last": "pooling_mode_lasttoken",
    }
    if config.get("pooling_mode") in {*modes, "lasttoken"}:
        return str(config["pooling_mode"]).replace("lasttoken", "last")
    return next((pooling for pooling, key in modes.items() if config.get(key)), None)


def choose_precision(options: EncoderOptions, device: torch.device) -> str:
    """``bfloat16`` where asked for, or where the device computes in it and ``auto`` was asked for."""
    if options.precision != "auto":
        return options.precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Context in which matrix products run in ``precision``."""
    import torch

    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextlib.contextmanager
def _loading(name: str, what: str, *, local: bool, instead: str = "") -> Iterator[None]:
    """Keep the library quiet, and turn whatever it raises over a user's files into a FeatureError.

    ``instead`` is advice to give first.
    """
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if local:  # downloads keep their bars
        logging.disable_progress_bar()
    try:
        yield
    except MMRecError:
        raise
    except Exception as error:  # the library raises many kinds over damaged files; all of them are input
        said = " ".join(str(error).split()) or type(error).__name__
        raise FeatureError(
            f"{what} of the encoder {name!r}", said[:240], instead + _advise(name, local=local)
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _advise(name: str, *, local: bool) -> str:
    if local:
        return "save the model again with save_pretrained, tokenizer and image processor too"
    builtin = [encoder["name"] for encoder in list_encoders()]
    close = did_you_mean(name, builtin)
    hint = f"{close} Or " if close.startswith("did") else ""
    return (
        f"{hint}check the id on huggingface.co; without network download the model elsewhere and give its folder,"
        " or use the built-in tfidf (text) or histogram (image)"
    )
