"""Which directions a base model's activations and gradients use: a forward and a backward pass over some text.

For each linear layer y = W x: the principal directions of its inputs x, and those of the gradients of the loss with
respect to its outputs y. The loss is the model's own (targets drawn from its predictions), so no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorica.adapters.tensor_map import layer_number
from lorica.errors import ModelError, PromptError
from lorica.hardware import this_machine
from lorica.models.base_folder import BaseFolder
from lorica.models.decoder import Decoder
from lorica.models.families import FAMILIES
from lorica.models.transformers_models import load_causal
from lorica.models.upcast import multiply_in_float32
from lorica.models.weight_files import weight_stamps
from lorica.models.weights import load_decoder
from lorica.prompts.encoder import Encoder
from lorica.records import Message
from lorica.vetting.base import subspace_cache
from lorica.vetting.base.activation_subspaces import (
    ActivationSubspaces,
    Array,
    Subspace,
    empty_subspace,
    principal_subspace,
)
from lorica.vetting.base.conversion_faults import find_conversion_fault, run_packed, text_dependence
from lorica.vetting.base.layer_consistency import EMBEDDING, outlier_layers, sample_rows
from lorica.vetting.base.permutation_null import axis_name, has_shared_order
from lorica.vetting.base.sample_text import SAMPLE_TEXTS

MAX_TOKENS = 1200  # of all texts together
# Of a base with larger files: wider layers leave less room for chance.
LARGE_FILES, _TOKENS_OF_LARGE = 100 << 20, 768
_LONGEST = 160  # tokens of one text
_LOSS_POSITIONS = 512
_SMALL = 300_000_000  # parameters up to which a model is computed in float32
_SEED = 0


_CACHE: dict[tuple[object, ...], ActivationSubspaces] = {}


def collect_subspaces(base_folder: Path, texts: Sequence[str] | None = None) -> ActivationSubspaces:
    """Run texts (the shipped ones by default) through a base model; kept in memory for the next call, and of a large
    base also on disk.

    Half of the tokens stand in the chat template's user turn, half alone. Models that the native decoder does not know
    are run with transformers. Raises ModelError for a base that cannot be loaded or run, PromptError for one without a
    usable tokenizer.
    """
    sample_texts = tuple(SAMPLE_TEXTS if texts is None else texts)
    stamps = weight_stamps(base_folder)
    is_large = sum(file_size for *_, file_size in stamps) > LARGE_FILES
    beside = [(path.name, path.stat()) for path in subspace_cache.files_beside(base_folder)]
    changes = [(file_name, status.st_mtime_ns, status.st_size) for file_name, status in beside]
    cache_key = (base_folder.resolve(), stamps, *changes, sample_texts)
    if cache_key not in _CACHE:
        file_key = subspace_cache.base_key(base_folder) if is_large and texts is None else ""
        subspaces = subspace_cache.load(file_key, base_folder) if file_key else None
        if subspaces is None:
            token_limit = _TOKENS_OF_LARGE if is_large else MAX_TOKENS
            subspaces = _observe(base_folder, _encode(base_folder, sample_texts, token_limit))
            if file_key:
                subspace_cache.save(file_key, subspaces)
                # What is stored is rounded: the same answer now and from there.
                subspaces = subspace_cache.load(file_key, base_folder) or subspaces
        _CACHE.clear()  # one base at a time: a large one's directions take a gigabyte
        _CACHE[cache_key] = subspaces
    return _CACHE[cache_key]


def _encode(base_folder: Path, sample_texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    try:
        encoder = Encoder.load(base_folder)
    except PromptError:  # nothing is answered here: text in any form will do
        encoder = Encoder.load(base_folder, chat_template="plain")
    token_rows: list[list[int]] = []
    remaining = max_tokens
    for sample_text in sample_texts:
        if remaining < 8 or not sample_text.strip():
            continue
        message = Message("user", sample_text, ((0, len(sample_text)),))
        try:
            chat_tokens = list(encoder.encode([message], max_tokens=_LONGEST, truncate="right").tokens)
        except PromptError:
            chat_tokens = []  # a template longer than that
        for row in (chat_tokens, list(encoder.encode_choice(sample_text))):
            if len(row) > 1 and remaining >= 8:
                token_rows.append(row[: min(_LONGEST, remaining)])
                remaining -= len(token_rows[-1])
    if not token_rows:
        raise PromptError("there is no text to run through the base model", fix="give texts with at least two tokens")
    return token_rows


def _observe(base_folder: Path, token_rows: Sequence[Sequence[int]]) -> ActivationSubspaces:
    base = BaseFolder(base_folder)
    config = base.config
    native = config.get("model_type") in FAMILIES and not config.get("quantization_config")
    base_model = _precise(load_decoder(base) if native else _foreign(base_folder))
    layers = dict(filter(lambda named: _is_linear(*named), base_model.named_modules()))
    longest = max(map(len, token_rows))
    attention_mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in token_rows])
    hooks = _SubspaceHooks(None if isinstance(base_model, Decoder) else attention_mask.flatten().bool())
    with hooks.on(base_model, layers):
        if isinstance(base_model, Decoder):
            tokens, _, hidden = run_packed(base_model, token_rows)
            positions = _spread(len(tokens))
            logits = base_model.logits(hidden[positions])
        else:
            tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in token_rows])
            outputs = base_model(input_ids=tokens, attention_mask=attention_mask, use_cache=False)
            all_logits = outputs.logits[attention_mask.bool()]
            positions = _spread(len(all_logits))
            logits = all_logits[positions]
        _backward(logits)
    base_form = text_dependence(logits, positions, token_rows)
    if isinstance(base_model, Decoder):
        other_form, other_loss, as_it_is = find_conversion_fault(base_model, token_rows)
        base_form = replace(base_form, other_form=other_form, other_loss=other_loss, as_it_is=as_it_is)
    weights = {
        module_name: float(weight.detach().float().norm())
        for module_name, module in layers.items()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.is_floating_point()
    }
    return ActivationSubspaces(
        base=base_folder,
        inputs=hooks.inputs,
        outputs=hooks.outputs,
        weights=weights,
        hidden=_hidden(config),
        head_dim=_head_dim(config),
        outlier_layers=_outlier_layers(base_model, layers, _hidden(config)),
        form=base_form,
    )


def _outlier_layers(base_model: nn.Module, layers: dict[str, nn.Module], hidden: int) -> tuple[int, ...]:
    """Layers whose weights read and write other coordinates of the residual stream than most layers do."""
    rows_by_layer: dict[int, list[Array]] = {}
    for module_name, module in layers.items():
        number, weight = layer_number(module_name), getattr(module, "weight", None)
        if number is None or not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
            continue
        weight = weight.detach().T if type(module).__name__ == "Conv1D" else weight.detach()
        output_width, input_width = weight.shape
        if input_width == hidden and not axis_name("in", module_name, input_width, hidden):
            rows_by_layer.setdefault(number, []).append(sample_rows(weight))
        writes_stream = not has_shared_order(module_name) and not axis_name("out", module_name, output_width, hidden)
        if output_width == hidden and writes_stream:
            rows_by_layer.setdefault(number, []).append(sample_rows(weight.T))
    sampled_rows = {number: np.concatenate(layer_rows) for number, layer_rows in rows_by_layer.items()}
    embedding = _embedding(base_model).weight.detach()
    if embedding.shape[1] == hidden and embedding.is_floating_point():
        sampled_rows[EMBEDDING] = sample_rows(embedding)
    return outlier_layers(sampled_rows)


def _precise(base_model: nn.Module) -> nn.Module:
    """In float32 where that is affordable, or needed: a CPU computes float16 slowly and without room for gradients, and
    many compute bfloat16 slowly, too."""
    parameters = list(base_model.parameters())
    if sum(parameter.numel() for parameter in parameters) < _SMALL:
        return base_model.float()
    if parameters[0].dtype == torch.bfloat16 and this_machine().multiplies("bfloat16"):
        return base_model
    return multiply_in_float32(base_model) if isinstance(base_model, Decoder) else base_model.float()


def _foreign(base_folder: Path) -> nn.Module:
    try:
        base_model = load_causal(base_folder, {"dtype": "auto"})
    except ImportError as error:
        raise ModelError(f"{base_folder}: only transformers could load this model: {error}") from error
    return cast(nn.Module, base_model.requires_grad_(False).eval())


def _backward(logits: Tensor) -> None:
    """Backward from the model's own loss: targets [N] are drawn from its predictions [N, vocabulary]."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(_SEED)
        targets = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
    F.cross_entropy(logits.float(), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]


def _spread(token_count: int) -> Tensor:
    # Every position's loss would need the whole vocabulary for each; evenly spread ones serve as well.
    return torch.arange(0, token_count, max(1, -(-token_count // _LOSS_POSITIONS)))


class _SubspaceHooks:
    """Hooks that reduce what passes through linear layers to its principal directions at once: no activations are
    kept.

    real: [rows * columns] which positions of a padded batch hold a token; None when there is no padding. Padding has
    no gradient, so only inputs need it.
    """

    def __init__(self, attention_mask: Tensor | None) -> None:
        self._real = attention_mask
        self.inputs: dict[str, Subspace] = {}
        self.outputs: dict[str, Subspace] = {}
        self._last: tuple[Tensor, Subspace | None] | None = None

    @contextmanager
    def on(self, base_model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
        """Watch these layers; gradients start at the embedding, since no weight asks for one."""
        handles = [_embedding(base_model).register_forward_hook(lambda _, __, embeddings: embeddings.requires_grad_())]
        handles += [module.register_forward_hook(self._hook(module_name)) for module_name, module in layers.items()]
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _hook(self, module_name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def observe(_: nn.Module, arguments: Any, outputs: Tensor) -> None:
            inputs = arguments[0]
            # q, k and v (gate and up) have one input.
            if self._last is None or self._last[0] is not inputs:
                tokens = inputs.detach().reshape(-1, inputs.shape[-1])
                if self._real is not None and len(self._real) == len(tokens):
                    tokens = tokens[self._real]
                self._last = (inputs, principal_subspace(tokens))
            if (subspace := self._last[1]) is not None:
                self.inputs[module_name] = subspace
            outputs.register_hook(lambda gradient: self._gradient(module_name, gradient))  # type: ignore[no-untyped-call]

        return observe

    def _gradient(self, module_name: str, gradient: Tensor) -> None:
        if has_shared_order(module_name):  # nothing is compared with them
            self.outputs[module_name] = empty_subspace(gradient.shape[-1])
        elif (subspace := principal_subspace(gradient.detach())) is not None:
            self.outputs[module_name] = subspace


def _is_linear(module_name: str, module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer with its weight transposed.
    is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return is_linear and module_name.rsplit(".", 1)[-1] not in ("lm_head", "embed_out")


def _embedding(base_model: nn.Module) -> nn.Embedding:
    # transformers' way; Lorica's decoder has one embedding.
    get_embedding = getattr(base_model, "get_input_embeddings", None)
    if get_embedding:
        return cast(nn.Embedding, get_embedding())
    return next(module for module in base_model.modules() if isinstance(module, nn.Embedding))


def _hidden(config: Mapping[str, Any]) -> int:
    hidden = config.get("hidden_size", config.get("n_embd"))
    return hidden if isinstance(hidden, int) else 0


def _head_dim(config: Mapping[str, Any]) -> int:
    head_dim, hidden, head_count = map(config.get, ("head_dim", "hidden_size", "num_attention_heads"))
    if isinstance(head_dim, int) and head_dim > 0:
        return head_dim
    return hidden // head_count if isinstance(hidden, int) and isinstance(head_count, int) and head_count > 0 else 0
