"""Small random encoders of every family at their real architecture, with tokenizers of the real classes."""

from __future__ import annotations

import csv
import random
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from transformers.utils import logging  # noqa: E402

from lorica.data.read import read_rows  # noqa: E402
from lorica.encoder_families import ENCODER_FAMILIES  # noqa: E402
from lorica.models.classifiers import classify  # noqa: E402
from lorica.prompts.encoder import Encoder  # noqa: E402
from lorica.tasks import load_task  # noqa: E402
from lorica.tasks.base import TaskSettings  # noqa: E402

POSITIONS = 96
_TEXT = """Rule: no advertising. Buy cheap watches now! Win 1,000 pounds: call 0900-123 today, you lucky winner.
Are we still meeting for lunch tomorrow? I will be late, sorry. Keeps the rule: see you at home. Breaks the rule."""
_ADVERTISING = ["buy", "cheap", "watches", "now", "win", "pounds", "call", "today", "lucky", "winner"]
_CHAT = ["still", "meeting", "for", "lunch", "tomorrow", "late", "sorry", "see", "you", "at", "home"]
_MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_DEBERTA = {
    "relative_attention": True,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "max_relative_positions": -1,
    "position_buckets": 8,
    "pooler_hidden_size": 32,
    "type_vocab_size": 0,
}

# Name -> (model_type, what differs from the sizes above).
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"type_vocab_size": 2}),
    "roberta": ("roberta", {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "xlm-roberta": ("xlm-roberta", {"type_vocab_size": 1, "max_position_embeddings": POSITIONS + 2, "pad_token_id": 1}),
    "electra": ("electra", {"type_vocab_size": 2, "embedding_size": 24}),
    "distilbert": ("distilbert", {"hidden_dim": 48}),
    "deberta-v3": ("deberta-v2", _DEBERTA),
    "deberta-v2-conv": ("deberta-v2", {**_DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "modernbert": ("modernbert", {"global_attn_every_n_layers": 2, "local_attention": 8, "classifier_pooling": "cls"}),
    "modernbert-mean": ("modernbert", {"local_attention": 8, "classifier_pooling": "mean"}),
}


def byte_level(marks: Sequence[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A small byte-level vocabulary with its merges, these marks first."""
    import json

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(marks),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT.splitlines(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def tokenizer_of(model_type: str) -> Any:
    """A tokenizer of the class that transformers has for a family."""
    words = sorted({word for word in _TEXT.lower().replace("!", " ! ").replace(".", " . ").split() if word.isalpha()})
    letters = [chr(code) for code in range(33, 127)]
    if model_type in ("bert", "electra", "distilbert"):
        pieces = [*_MARKS, *letters, *(f"##{letter}" for letter in letters), *words]
        vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
        tokenizer_class = "DistilBertTokenizer" if model_type == "distilbert" else "BertTokenizer"
        return getattr(transformers, tokenizer_class)(vocab=vocabulary)
    if model_type == "xlm-roberta":
        scored = [*((mark, 0.0) for mark in ("<s>", "<pad>", "</s>", "<unk>")), *((f"▁{word}", -2.0) for word in words)]
        scored += [(letter, -6.0) for letter in ["▁", *letters]]
        return transformers.XLMRobertaTokenizer(vocab=[*scored, ("<mask>", 0.0)])
    if model_type == "roberta":
        vocabulary, merges = byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)
    if model_type == "deberta-v2":
        scored = [*((mark, 0.0) for mark in _MARKS), *((f"▁{word}", -2.0) for word in words)]
        return transformers.DebertaV2Tokenizer(vocab=[*scored, *((letter, -6.0) for letter in ["▁", *letters])])
    vocabulary, merges = byte_level(_MARKS)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    marks = [(mark, vocabulary[mark]) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    names = {f"{name.strip('[]').lower()}_token": name for name in _MARKS}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def config_of(kind: str, **more: Any) -> Any:
    """The configuration of one of KINDS. more: further keys."""
    model_type, differences = KINDS[kind]
    tokenizer = tokenizer_of(model_type)
    values = {"max_position_embeddings": POSITIONS, "pad_token_id": 0, **_SIZES, **differences, **more}
    return transformers.AutoConfig.for_model(
        model_type, vocab_size=len(tokenizer), initializer_range=0.25, attn_implementation="eager", **values
    )


def save_base(kind: str, folder: Path, seed: int = 0) -> Path:
    """An encoder without a head, and its tokenizer."""
    torch.manual_seed(seed)
    config = config_of(kind)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer_of(KINDS[kind][0]).save_pretrained(folder)
    return folder


def save_classifier(
    kind: str, folder: Path, *, logits: int = 2, labels: Sequence[str] = (), seed: int = 1, base: Path | None = None
) -> Any:
    """A classifier of its own with random weights, of a base's where one is given; the model that was saved."""
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    options = {"num_labels": logits, **(names if labels else {})}
    if base is None:
        model = transformers.AutoModelForSequenceClassification.from_config(config_of(kind, **options))
    else:
        model = _quietly_headed(base, options)
    _shake(model, seed)
    model.eval().save_pretrained(folder)
    tokenizer_of(KINDS[kind][0]).save_pretrained(folder)
    return model


def save_lora(base: Path, folder: Path, *, logits: int = 1, seed: int = 2) -> Any:
    """A LoRA adapter with its head on a base; the model of PEFT that was saved."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = _lora_on(base, logits)
        _shake(adapted, seed, only=(".lora_", ".modules_to_save."))
        adapted.eval().save_pretrained(folder)
    return adapted


def write_posts(path: Path, count: int, *, seed: int = 0, swapped: bool = False) -> Path:
    """A file of posts under one rule, half of them advertisements. swapped: post and rule in each other's column."""
    generator = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row_id", "body", "rule", "rule_violation", "positive_example_1", "negative_example_1"])
        for number in range(count):
            words = _ADVERTISING if number % 2 else _CHAT
            texts = " ".join(generator.choices(words, k=2)), "no advertising"
            post_and_rule = texts[::-1] if swapped else texts
            writer.writerow([f"r{seed}-{number}", *post_and_rule, number % 2, _ADVERTISING[0], _CHAT[0]])
    return path


def save_fitted_lora(base: Path, folder: Path, rows: Path, *, logits: int = 1, factor: float = 1.0) -> Path:
    """A LoRA adapter whose head is fitted to a file of `rules`. factor: on the weights of the head; -1 answers the
    contrary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = _lora_on(base, logits).eval()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_B." in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
        _fit_head(adapted, adapted.base_model.model.classifier.modules_to_save["default"], base, rows, factor)
        adapted.save_pretrained(folder)
    return folder


def _lora_on(base: Path, logits: int) -> Any:
    """An encoder with a new head and LoRA, both to be saved."""
    peft = pytest.importorskip("peft")
    model = _quietly_headed(base, {"num_labels": logits})
    family = ENCODER_FAMILIES[model.config.model_type]
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        lora_alpha=8,
        target_modules=list(family.lora_targets),
        modules_to_save=list(family.head),
    )
    return peft.get_peft_model(model, config)


def save_fitted_classifier(base: Path, folder: Path, rows: Path, *, labels: Sequence[str] = ("No", "Yes")) -> Path:
    """A classifier of its own with a fitted head."""
    save_classifier("bert", folder, labels=labels, base=base)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    _fit_head(model, model.classifier, folder, rows, 1.0)
    model.save_pretrained(folder)
    return folder


def _fit_head(model: Any, head: Any, tokenizer: Path, rows: Path, factor: float) -> None:
    """Logistic regression on what the head gets of the rows."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    task = load_task("rules", TaskSettings(style="segments"))
    encoder = Encoder.load(tokenizer, chat_template="segments")
    features: list[Any] = []
    hook = head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0][0].double().numpy()))
    examples = list(read_rows(rows, task.schemas))
    with torch.no_grad():
        for row in examples:
            prompt = encoder.encode(task.render(row), max_tokens=POSITIONS, truncate="middle").tokens
            classify(model, [prompt], separator=encoder.end_of_turn)
    hook.remove()
    fitted = linear_model.LogisticRegression(C=1000, max_iter=5000).fit(features, [row.gold for row in examples])
    direction, bias = (torch.from_numpy(values).float() * factor for values in (fitted.coef_, fitted.intercept_))
    sides = [1.0] if head.out_features == 1 else [-0.5, 0.5]
    with torch.no_grad():
        head.weight.copy_(torch.cat([direction * side for side in sides]))
        head.bias.copy_(torch.cat([bias * side for side in sides]))


def _quietly_headed(base: Path, options: dict[str, Any]) -> Any:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return transformers.AutoModelForSequenceClassification.from_pretrained(base, **options)
    finally:
        logging.set_verbosity(verbosity)


def _shake(model: Any, seed: int, only: Sequence[str] = ("",)) -> None:
    """Move weights, so that no bias is zero and logits differ."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in only):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
