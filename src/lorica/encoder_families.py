"""The families of encoders that classify: precisions, modules and positions of each. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderFamily:
    """One family, by `model_type` in config.json.

    dtypes: the precisions that its activations survive, the most exact first. head: the modules between the encoder's
    layers and the logits, which an adapter brings whole (`modules_to_save`). logits: the last of them, with one row for
    each label. lora_targets: its linear layers in attention and MLP. position_offset: positions of
    `max_position_embeddings` that hold no token.
    """

    model_type: str
    dtypes: tuple[str, ...]
    head: tuple[str, ...]
    logits: str
    lora_targets: tuple[str, ...]
    position_offset: int = 0


_ALL = ("float32", "bfloat16", "float16")
_NO_FLOAT16 = ("float32", "bfloat16")

ENCODER_FAMILIES: dict[str, EncoderFamily] = {
    family.model_type: family
    for family in (
        EncoderFamily(
            "bert",
            _ALL,
            head=("pooler", "classifier"),
            logits="classifier",
            lora_targets=("query", "key", "value"),
        ),
        EncoderFamily(
            "roberta",
            _ALL,
            head=("classifier",),
            logits="classifier.out_proj",
            lora_targets=("query", "key", "value"),
            position_offset=2,
        ),
        # RoBERTa's layers with a tokenizer of a hundred languages.
        EncoderFamily(
            "xlm-roberta",
            _ALL,
            head=("classifier",),
            logits="classifier.out_proj",
            lora_targets=("query", "key", "value"),
            position_offset=2,
        ),
        EncoderFamily(
            "electra",
            _ALL,
            head=("classifier",),
            logits="classifier.out_proj",
            lora_targets=("query", "key", "value"),
        ),
        EncoderFamily(
            "distilbert",
            _ALL,
            head=("pre_classifier", "classifier"),
            logits="classifier",
            lora_targets=("q_lin", "k_lin", "v_lin"),
        ),
        # Its attention scores and residuals exceed 65504, the largest number of float16.
        EncoderFamily(
            "deberta-v2",
            _NO_FLOAT16,
            head=("pooler", "classifier"),
            logits="classifier",
            lora_targets=("query_proj", "key_proj", "value_proj"),
        ),
        # Trained in bfloat16: its activations may exceed float16 as well.
        EncoderFamily(
            "modernbert",
            _NO_FLOAT16,
            head=("head", "classifier"),
            logits="classifier",
            lora_targets=("Wqkv", "Wo", "Wi"),
        ),
    )
}


def encoder_family(model_type: object) -> EncoderFamily | None:
    """The family of a `model_type`; None for a decoder and for what is not known."""
    return ENCODER_FAMILIES.get(model_type) if isinstance(model_type, str) else None


def is_of_module(tensor_path: str, module: str) -> bool:
    """Whether a tensor's dotted path leads through a module of this name."""
    return f".{module}." in f".{tensor_path}"
