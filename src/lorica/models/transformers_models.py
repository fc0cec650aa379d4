"""Loads models with transformers from a local folder; whatever is wrong with the folder becomes a ModelError."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorica.errors import LoricaError, ModelConfigError, ModelError
from lorica.gguf.file_header import is_gguf
from lorica.gguf.tensors import stored_tensors
from lorica.models.base_folder import BaseFolder
from lorica.models.families import FAMILIES
from lorica.models.weight_files import refuse_adapter_inside
from lorica.names import utf8_path

_AGAIN = "download the model's config.json again"


def load_causal(folder: Path, options: Mapping[str, Any]) -> Any:
    """AutoModelForCausalLM of a folder; no code of the folder is run. A GGUF file is read by our own reader, and its
    weights are dequantized. options: more arguments of `from_pretrained`.

    Raises ModelError for what transformers refuses or would make up, ImportError without transformers.
    """
    refuse_adapter_inside(folder)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    if is_gguf(folder):
        from lorica.models.gguf_layers import read_tensor  # torch

        with _as_model_error(folder):
            config = AutoConfig.for_model(**BaseFolder(folder).config)
            weights = {name: read_tensor(stored) for name, stored in stored_tensors(folder).items()}
            model, loaded = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                None, config=config, state_dict=weights, output_loading_info=True, **options
            )
    else:
        _refuse_encoder(folder)
        model, loaded = load_with_transformers(AutoModelForCausalLM, folder, options)
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"{folder}: weights of the model are in no file ({len(missing)}, the first is {missing[0]}); "
            "transformers would fill them with random numbers",
            fix="give a folder that was saved with all its weights; for a missing output head alone, set "
            "tie_word_embeddings in config.json to what the model was trained with",
        )
    return model


def _refuse_encoder(folder: Path) -> None:
    """transformers would give it the head of a decoder, of random numbers."""
    base = BaseFolder(folder)
    if base.config_path.is_file() and base.encoder_family is not None:
        raise ModelError(
            f"{folder}: is an encoder (model_type {base.config['model_type']!r}), which writes no text",
            fix="use engine=encoder, which classifies with it",
        )


def load_with_transformers(model_class: Any, folder: Path, options: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The model of a folder, by one of transformers' `AutoModel` classes, and what it found missing there; no code of
    the folder is run, and nothing is downloaded. Raises ModelError for what transformers refuses.
    """
    with _as_model_error(folder), utf8_path(folder) as readable_path:
        model, loaded = model_class.from_pretrained(
            readable_path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    return model, loaded


@contextmanager
def _as_model_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except (LoricaError, MemoryError):
        raise
    # Each config's class of transformers raises what its own checks raise, without a common base.
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise ModelError(
            f"{folder}: transformers cannot load this model: {_reason(error)}",
            fix="give a folder with config.json and safetensors of an architecture that transformers knows",
        ) from error


def check_config(base: BaseFolder) -> None:
    """Raises ModelConfigError where no model can be built from a base's config.json, ModelError where there is none.

    An architecture that neither the native decoder nor transformers knows is no mistake of the config, and passes.
    """
    raw_config = base.config
    if raw_config.get("model_type") in FAMILIES and not raw_config.get("quantization_config"):
        try:
            base.decoder_config  # noqa: B018  (raises)
            return
        except ModelConfigError:
            raise
        except ModelError:
            if base.is_gguf:
                raise
            # Sound, as far as is known, and more than the native decoder does.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import CONFIG_MAPPING, AutoConfig
    except ImportError:
        return
    if not isinstance(raw_config.get("model_type"), str) or raw_config["model_type"] not in CONFIG_MAPPING:
        return
    try:
        with utf8_path(base.path) as readable_path:
            AutoConfig.from_pretrained(readable_path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelConfigError(f"{base.config_path}: transformers refuses it: {_reason(error)}", fix=_AGAIN) from error


def _reason(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:240] or type(error).__name__
