"""Encoder classifiers on transformers' models: opened from a folder, made anew for training, and computed in batches.

Shapes: B sequences of a batch, T tokens of the longest, L logits (1 or 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from lorica.encoder_families import EncoderFamily, is_of_module
from lorica.errors import AdapterError, MissingExtraError, ModelError
from lorica.models.base_folder import BaseFolder
from lorica.models.offline import offline
from lorica.models.transformers_models import load_with_transformers
from lorica.models.weight_files import refuse_adapter_inside, weight_files

_RETRAIN = "train it again, or take the file that was saved after training"


@dataclass(frozen=True)
class NewClassifier:
    """model: transformers' classifier. random: the modules of its head that are not the base's."""

    model: Any
    random: tuple[str, ...]


def base_family(base: BaseFolder) -> EncoderFamily:
    """The family of an encoder. Raises ModelError for a decoder and for what is not known."""
    family = base.encoder_family
    if family is None:
        raise ModelError(
            f"{base.path}: model_type {base.config.get('model_type')!r} is no encoder that Lorica classifies with",
            fix="use engine=native for a decoder, or a base such as model=deberta_v3_base",
        )
    return family


def new_classifier(base: BaseFolder, labels: Sequence[str], dtype: torch.dtype, seed: int) -> NewClassifier:
    """The encoder of a base under a head with random numbers, to be trained; of the pooler those of the base, where it
    has one. labels: of label 0 and 1 for two classes, of label 1 alone for one logit. The process's random state stays.

    Raises ModelError for a base that is no encoder, or whose layers lack weights or have other shapes than its config
    says.
    """
    family = base_family(base)
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        # By it transformers takes the loss that a classifier was trained on where it is trained further there.
        "problem_type": "multi_label_classification" if len(labels) == 1 else "single_label_classification",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, loaded = _load(base, dtype, {"num_labels": len(labels), **names})
    _refuse_other_shapes(base, loaded, replaced=family)
    replaced = {*loaded["missing_keys"], *(tensor_name for tensor_name, *_ in loaded["mismatched_keys"])}
    lacking = [name for name in sorted(loaded["missing_keys"]) if not _is_head(family, name)]
    if lacking:
        raise ModelError(
            f"{base.path}: weights of the encoder are in no file ({len(lacking)}, the first is {lacking[0]})",
            fix="download the model again",
        )
    random = [module for module in family.head if any(is_of_module(name, module) for name in replaced)]
    return NewClassifier(model, tuple(random))


def load_classifier(base: BaseFolder, dtype: torch.dtype) -> Any:
    """A folder that was saved with its head, ready to answer.

    Raises AdapterError for a folder whose weights are incomplete (transformers would fill in random numbers), or not
    numbers, ModelError for other shapes than its config says, and for what transformers refuses.
    """
    base_family(base)
    model, loaded = _load(base, dtype, {})
    _refuse_other_shapes(base, loaded)
    if missing := sorted(loaded["missing_keys"]):
        raise AdapterError(
            f"{base.path}: weights of the classifier are in no file ({len(missing)}, the first is {missing[0]}); "
            "transformers would fill them with random numbers",
            fix=_RETRAIN,
        )
    check_finite(model.named_parameters(), str(base.path))
    return model.eval()


def check_finite(parameters: Iterable[tuple[str, Tensor]], location_text: str) -> None:
    """Raises AdapterError, beginning with `location_text`, for weights that are NaN or infinite."""
    for name, parameter in parameters:
        if not bool(torch.isfinite(parameter).all()):
            raise AdapterError(f"{location_text}: {name} holds NaN or infinite numbers", fix=_RETRAIN)


def _load(base: BaseFolder, dtype: torch.dtype, options: dict[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what transformers says of its loading."""
    refuse_adapter_inside(base.path)
    weight_files(base.path)  # says what is there where transformers says that its one name is not
    try:
        from transformers import AutoModelForSequenceClassification
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError("transformers", extra="local", needed_for="an encoder") from error
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it reports as newly initialised is judged here
    try:
        with offline():
            # Other shapes than the config's would be an error that names none of them.
            any_shapes = {"ignore_mismatched_sizes": True}
            model, loaded = load_with_transformers(
                AutoModelForSequenceClassification, base.path, {"dtype": dtype, **any_shapes, **options}
            )
    finally:
        logging.set_verbosity(verbosity)
    return model, loaded


def _refuse_other_shapes(base: BaseFolder, loaded: Mapping[str, Any], replaced: EncoderFamily | None = None) -> None:
    """replaced: the family whose head is made anew, whatever shape the stored one has."""
    for name, stored_shape, shape in sorted(loaded["mismatched_keys"]):
        if replaced is None or not _is_head(replaced, name):
            raise ModelError(
                f"{base.path}: {name} has the shape {tuple(stored_shape)}, and config.json makes it {tuple(shape)}",
                fix="give weights and config.json of one model",
            )


def _is_head(family: EncoderFamily, tensor_name: str) -> bool:
    return any(is_of_module(tensor_name, module) for module in family.head)


def classify(model: Any, sequences: Sequence[Sequence[int]], *, separator: int) -> Tensor:
    """Logits [B, L] in float32 of token ids that `prompts` encoded. separator: the id that ends a segment.

    Shorter sequences are padded to the longest; a batch of equal lengths has no padding.
    """
    longest = max(map(len, sequences))
    padding = int(getattr(model.config, "pad_token_id", None) or 0)
    token_ids = torch.tensor([[*sequence, *[padding] * (longest - len(sequence))] for sequence in sequences])
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    mask = (torch.arange(longest)[None, :] < lengths[:, None]).long()
    inputs = {"input_ids": token_ids, "attention_mask": mask}
    if int(getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        # As the tokenizers of these families say: 0 for the first segment with its separator, 1 behind it.
        is_separator = (token_ids == separator).long()
        inputs["token_type_ids"] = ((is_separator.cumsum(dim=1) - is_separator) > 0).long() * mask
    logits: Tensor = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}).logits
    return logits.float()


def label_logprobs(logits: Tensor) -> Tensor:
    """[B, L] -> log-probabilities [B, 2] of label 0 and label 1: of one logit, the log-odds of label 1, or of two."""
    if logits.shape[1] == 1:
        return torch.cat([logsigmoid(-logits), logsigmoid(logits)], dim=1)
    return logits.log_softmax(dim=1)
