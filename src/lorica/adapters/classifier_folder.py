"""An encoder classifier's folder, as transformers saves it: `config.json`, `model.safetensors`, tokenizer. No torch.

A classifier has a head: one logit, the log-odds of label 1, or two classes, label 0 and label 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lorica.adapters.classifier_config import MODEL_CONFIG, MODEL_WEIGHTS, read_model_config, unknown_encoder
from lorica.adapters.folder import Snapshot, digest_files, snapshot
from lorica.adapters.header import TensorInfo, read_header
from lorica.encoder_families import EncoderFamily, encoder_family, is_of_module
from lorica.errors import AdapterError

MAX_LABELS = 2

_UNNAMED = re.compile(r"LABEL_\d+")  # as transformers calls labels that nobody named
_HEAD_FIX = "train one on this base with `lorica train`, or give the folder that was saved after training"


class ClassifierFolder(msgspec.Struct, frozen=True):
    """A classifier on disk, opened and hashed once. labels: its names of label 0 and label 1, of one logit that of
    label 1 alone; () where nobody named them. logits: rows of its head. tensors: by their names in the file. digest: of
    config and weights together. before: its files as they were before the first of them was read."""

    path: Path
    config: dict[str, Any]
    family: EncoderFamily
    labels: tuple[str, ...]
    logits: int
    tensors: dict[str, TensorInfo]
    digest: str
    before: Snapshot = {}

    @property
    def config_path(self) -> Path:
        """The file that says what it is."""
        return self.path / MODEL_CONFIG

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path / MODEL_WEIGHTS

    @property
    def settings(self) -> dict[str, Any]:
        """What its config says that decides its answers, for a passport."""
        labels: dict[str, Any] = {"labels": list(self.labels)} if self.labels else {}
        return {"method": "full", "model_type": self.family.model_type, "logits": self.logits, **labels}

    @property
    def changed(self) -> bool:
        """Whether a file was written since it was opened: then what was read may be of two classifiers."""
        return snapshot(self.path) != self.before


def open_classifier(folder: Path) -> ClassifierFolder:
    """Read and check a classifier: config, header, head and labels. No number is interpreted.

    Raises AdapterError for a folder without a classifier, of an unknown family, without a head, with other labels than
    two, or with files that are missing or broken.
    """
    folder = Path(folder)
    before = snapshot(folder)
    config = read_model_config(folder)
    family = encoder_family(config.get("model_type"))
    if family is None:
        raise unknown_encoder(folder, config)
    if not (folder / MODEL_WEIGHTS).is_file():
        raise _without_weights(folder)
    tensors = read_header(folder / MODEL_WEIGHTS).tensors
    shapes = {name: info.shape for name, info in tensors.items()}
    logits = head_rows(family, shapes, str(folder), needed=family.head)
    _refuse_other_loss(config, logits, folder)
    labels = _labels(config, logits, folder)
    digest = digest_files(folder, (MODEL_CONFIG, MODEL_WEIGHTS))
    return ClassifierFolder(folder, config, family, labels, logits, tensors, digest, before)


def head_rows(
    family: EncoderFamily, shapes: Mapping[str, tuple[int, ...]], location_text: str, needed: Sequence[str] = ()
) -> int:
    """How many logits the head among these tensors gives, 1 or 2. shapes: dotted path -> shape. needed: the modules of
    the head that have to be among them; the logits always have.

    Raises AdapterError beginning with `location_text` for a head that is missing, incomplete or has more.
    """
    missing = [module for module in needed if not any(is_of_module(path, module) for path in shapes)]
    rows = [shape[0] for path, shape in shapes.items() if path.endswith(f"{family.logits}.weight") and shape]
    if missing or not rows:
        raise AdapterError(
            f"{location_text}: has no head to classify with: no tensors of {', '.join(missing) or family.logits}",
            fix=_HEAD_FIX,
        )
    if not 1 <= rows[0] <= MAX_LABELS:
        raise AdapterError(
            f"{location_text}: its head has {rows[0]} labels; allowed: one logit, or two classes",
            fix="use a classifier that was trained on two labels",
        )
    return rows[0]


def _without_weights(folder: Path) -> AdapterError:
    shards, pickled = sorted(folder.glob("model-*.safetensors")), [*folder.glob("*.bin"), *folder.glob("*.pt")]
    if shards:
        return AdapterError(
            f"{folder}: its weights are in {len(shards)} files ({shards[0].name}, ...), and a classifier is read from "
            f"one, {MODEL_WEIGHTS}",
            fix='save it again with save_pretrained(FOLDER, max_shard_size="100GB")',
        )
    listing = f"; {pickled[0].name} is a pickle, which is never loaded" if pickled else ""
    return AdapterError(f"{folder}: holds no {MODEL_WEIGHTS}{listing}", fix="save it as safetensors")


def _refuse_other_loss(config: Mapping[str, Any], logits: int, folder: Path) -> None:
    """Raises AdapterError for logits that are no log-odds: a regression's numbers, and two labels of which each has a
    probability of its own."""
    problem_type = config.get("problem_type")
    if problem_type == "regression":
        problem = "its head was trained as a regression, whose number is no log-odds"
    elif problem_type == "multi_label_classification" and logits > 1:
        problem = f"its {logits} labels were trained apart from each other, and their probabilities do not sum to 1"
    else:
        return
    raise AdapterError(
        f"{folder / MODEL_CONFIG}: problem_type is {problem_type!r}: {problem}",
        fix="train it on two classes; or take problem_type out, to read its numbers as log-odds all the same",
    )


def _labels(config: Mapping[str, Any], logits: int, folder: Path) -> tuple[str, ...]:
    """The names of the labels in their order, () where they have transformers' own."""
    stated = config.get("id2label")
    if stated is None:
        return ()
    try:
        names = [str(stated[key]) for key in sorted(stated, key=int)]
        numbers = sorted(map(int, stated))
    except (AttributeError, TypeError, ValueError):
        names, numbers = [], [-1]
    if numbers != list(range(logits)):
        raise AdapterError(
            f"{folder / MODEL_CONFIG}: id2label {json.dumps(stated)[:80]} does not name the {logits} rows of the head",
            fix=f"write one name for each, numbered from 0 to {logits - 1}",
        )
    return () if all(map(_UNNAMED.fullmatch, names)) else tuple(names)
