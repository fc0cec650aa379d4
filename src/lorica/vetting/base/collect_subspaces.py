"""Which directions a base model's activations and gradients use: a forward and a backward pass over some text.

For each linear layer y = W x: the principal directions of its inputs x, and those of the gradients of the loss with
respect to its outputs y. The loss is the model's own (targets drawn from its predictions), so no labels are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from lorica.models.base_folder import BaseFolder
from lorica.models.cpu import kernels
from lorica.models.decoder import Decoder
from lorica.models.families import FAMILIES, read_json_object
from lorica.models.packed_attention import PackedAttention
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
from lorica.vetting.base.conversion_faults import BaseForm, find_conversion_fault, text_dependence
from lorica.vetting.base.layer_consistency import EMBEDDING, outlier_layers, sample_rows
from lorica.vetting.base.permutation_null import PermutationNull, has_shared_order
from lorica.vetting.base.sample_text import SAMPLE_TEXTS

MAX_TOKENS = 1200  # of all texts together
# Of a base with larger files: wider layers leave less room for chance.
LARGE_FILES, _TOKENS_OF_LARGE = 100 << 20, 768
_LONGEST = 160  # tokens of one text
_LOSS_POSITIONS = 512
_SMALL = 300_000_000  # parameters up to which a model is computed in float32
_SEED = 0


_CACHE: dict[tuple[object, ...], ActivationSubspaces] = {}


def collect_subspaces(
    base: Path, texts: Sequence[str] | None = None, *, max_tokens: int | None = None
) -> ActivationSubspaces:
    """Run texts (the shipped ones by default) through a base model; kept in memory for the next call, and of a large
    base also on disk.

    Half of the tokens stand in the chat template's user turn, half alone. max_tokens: of all texts together; None for
    MAX_TOKENS, and fewer of a large base. Models that the native decoder does not know are run with transformers.
    Raises ModelError for a base that cannot be loaded or run, PromptError for one without a usable tokenizer.
    """
    sample_texts = tuple(SAMPLE_TEXTS if texts is None else texts)
    stamps = weight_stamps(base)
    large = sum(size for *_, size in stamps) > LARGE_FILES
    beside = [(path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in subspace_cache.files_beside(base)]
    key = (base.resolve(), stamps, *beside, sample_texts, max_tokens)
    if key not in _CACHE:
        token_limit = max_tokens or (_TOKENS_OF_LARGE if large else MAX_TOKENS)
        cacheable = large and texts is None and max_tokens is None
        compute = _from_disk if cacheable else _compute
        subspaces = compute(base, sample_texts, token_limit)
        _CACHE.clear()  # one base at a time: a large one's directions take a gigabyte
        _CACHE[key] = subspaces
    return _CACHE[key]


def _from_disk(base: Path, texts: Sequence[str], max_tokens: int) -> ActivationSubspaces:
    key = subspace_cache.base_key(base)
    cached = subspace_cache.load(key, base)
    if cached is not None:
        return cached
    subspaces = _compute(base, texts, max_tokens)
    subspace_cache.save(key, subspaces)
    # What is stored is rounded: the same answer now and from there.
    return subspace_cache.load(key, base) or subspaces


def _compute(base: Path, texts: Sequence[str], max_tokens: int) -> ActivationSubspaces:
    return _observe(base, _encode(base, texts, max_tokens))


def _encode(base: Path, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    try:
        encoder = Encoder.load(base)
    except PromptError:  # nothing is answered here: text in any form will do
        encoder = Encoder.load(base, chat_template="plain")
    rows: list[list[int]] = []
    remaining = max_tokens
    for text in texts:
        if remaining < 8 or not text.strip():
            continue
        message = Message("user", text, ((0, len(text)),))
        try:
            chat = list(encoder.encode([message], max_tokens=_LONGEST, truncate="right").tokens)
        except PromptError:
            chat = []  # a template longer than that
        for row in (chat, list(encoder.encode_choice(text))):
            if len(row) > 1 and remaining >= 8:
                rows.append(row[: min(_LONGEST, remaining)])
                remaining -= len(rows[-1])
    if not rows:
        raise PromptError("there is no text to run through the base model", fix="give texts with at least two tokens")
    return rows


def _observe(base: Path, rows: Sequence[Sequence[int]]) -> ActivationSubspaces:
    config = read_json_object(base / "config.json")
    native = config.get("model_type") in FAMILIES and not config.get("quantization_config")
    model = _precise(load_decoder(BaseFolder(base)) if native else _foreign(base))
    layers = {module_name: module for module_name, module in model.named_modules() if _is_linear(module_name, module)}
    longest = max(map(len, rows))
    real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    watch = _SubspaceHooks(None if isinstance(model, Decoder) else real.flatten().bool())
    with watch.on(model, layers):
        form = _run_packed(model, rows) if isinstance(model, Decoder) else _run_padded(model, rows, real)
    if isinstance(model, Decoder):
        other_form, loss, as_it_is = find_conversion_fault(model, rows)
        form = replace(form, other_form=other_form, other_loss=loss, as_it_is=as_it_is)
    weights = {
        module_name: float(weight.detach().float().norm())
        for module_name, module in layers.items()
        if isinstance(weight := getattr(module, "weight", None), Tensor) and weight.is_floating_point()
    }
    return ActivationSubspaces(
        base=base,
        inputs=watch.inputs,
        outputs=watch.outputs,
        weights=weights,
        hidden=_hidden(config),
        head_dim=_head_dim(config),
        tokens=sum(map(len, rows)),
        outlier_layers=_outlier_layers(model, layers, _hidden(config), _head_dim(config)),
        form=form,
    )


def _outlier_layers(model: nn.Module, layers: dict[str, nn.Module], hidden: int, head_dim: int) -> tuple[int, ...]:
    """Layers whose weights read and write other coordinates of the residual stream than most layers do."""
    axes = PermutationNull(hidden=hidden, head_dim=head_dim, count=0)
    rows_by_layer: dict[int, list[Array]] = {}
    for module_name, module in layers.items():
        number, weight = layer_number(module_name), getattr(module, "weight", None)
        if number is None or not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2:
            continue
        weight = weight.detach().T if type(module).__name__ == "Conv1D" else weight.detach()
        out, into = weight.shape
        if into == hidden and not axes.axis_of_inputs(module_name, into):
            rows_by_layer.setdefault(number, []).append(sample_rows(weight))
        if out == hidden and axes.writes(module_name, out):
            rows_by_layer.setdefault(number, []).append(sample_rows(weight.T))
    nodes = {number: np.concatenate(layer_rows) for number, layer_rows in rows_by_layer.items()}
    embedding = _embedding(model).weight.detach()
    if embedding.shape[1] == hidden and embedding.is_floating_point():
        nodes[EMBEDDING] = sample_rows(embedding)
    return outlier_layers(nodes)


def _precise(model: nn.Module) -> nn.Module:
    """In float32 where that is affordable, or needed: a CPU computes float16 slowly and without room for gradients, and
    many compute bfloat16 slowly, too."""
    parameters = list(model.parameters())
    if sum(parameter.numel() for parameter in parameters) < _SMALL:
        return model.float()
    if parameters[0].dtype == torch.bfloat16 and kernels.has_fast_bfloat16():
        return model
    return multiply_in_float32(model) if isinstance(model, Decoder) else model.float()


def _foreign(base: Path) -> nn.Module:
    try:
        model = load_causal(base, {"dtype": "auto"})
    except ImportError as error:
        raise ModelError(f"{base}: only transformers could load this model: {error}") from error
    return cast(nn.Module, model.requires_grad_(False).eval())


def _run_packed(decoder: Decoder, rows: Sequence[Sequence[int]]) -> BaseForm:
    lengths = [len(row) for row in rows]
    tokens = torch.tensor([token for row in rows for token in row])
    positions = torch.cat([torch.arange(length) for length in lengths])
    hidden = decoder.hidden(tokens, positions, PackedAttention(lengths, decoder.config))
    token_positions = _spread(len(tokens))
    logits = decoder.logits(hidden[token_positions])
    _backward(logits)
    return text_dependence(logits, token_positions, rows)


def _run_padded(model: nn.Module, rows: Sequence[Sequence[int]], real: Tensor) -> BaseForm:
    tokens = torch.tensor([[*row, *[0] * (real.shape[1] - len(row))] for row in rows])
    logits = model(input_ids=tokens, attention_mask=real, use_cache=False).logits[real.bool()]
    positions = _spread(len(logits))
    _backward(logits[positions])
    return text_dependence(logits[positions], positions, rows)


def _backward(logits: Tensor) -> None:
    """Backward from the model's own loss: targets [N] are drawn from its predictions [N, vocabulary]."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(_SEED)
        targets = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)[:, 0]
    F.cross_entropy(logits.float(), targets, reduction="sum").backward()  # type: ignore[no-untyped-call]


def _spread(count: int) -> Tensor:
    # Every position's loss would need the whole vocabulary for each; evenly spread ones serve as well.
    return torch.arange(0, count, max(1, -(-count // _LOSS_POSITIONS)))


class _SubspaceHooks:
    """Hooks that reduce what passes through linear layers to its principal directions at once: no activations are
    kept.

    real: [rows * columns] which positions of a padded batch hold a token; None when there is no padding. Padding has
    no gradient, so only inputs need it.
    """

    def __init__(self, real: Tensor | None) -> None:
        self._real = real
        self.inputs: dict[str, Subspace] = {}
        self.outputs: dict[str, Subspace] = {}
        self._last: tuple[Tensor, Subspace | None] | None = None

    @contextmanager
    def on(self, model: nn.Module, layers: dict[str, nn.Module]) -> Iterator[None]:
        """Watch these layers; gradients start at the embedding, since no weight asks for one."""
        handles = [_embedding(model).register_forward_hook(lambda _, __, out: out.requires_grad_())]
        handles += [module.register_forward_hook(self._hook(module_name)) for module_name, module in layers.items()]
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _hook(self, module_name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def observe(_: nn.Module, arguments: Any, out: Tensor) -> None:
            inputs = arguments[0]
            # q, k and v (gate and up) have one input.
            if self._last is None or self._last[0] is not inputs:
                self._last = (inputs, principal_subspace(self._tokens(inputs.detach())))
            if (subspace := self._last[1]) is not None:
                self.inputs[module_name] = subspace
            out.register_hook(lambda gradient: self._gradient(module_name, gradient))  # type: ignore[no-untyped-call]

        return observe

    def _tokens(self, inputs: Tensor) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        return flat if self._real is None or len(self._real) != len(flat) else flat[self._real]

    def _gradient(self, module_name: str, gradient: Tensor) -> None:
        if has_shared_order(module_name):  # nothing is compared with them
            self.outputs[module_name] = empty_subspace(gradient.shape[-1])
        elif (subspace := principal_subspace(gradient.detach())) is not None:
            self.outputs[module_name] = subspace


def _is_linear(module_name: str, module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer with its weight transposed.
    is_linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    return is_linear and module_name.rsplit(".", 1)[-1] not in ("lm_head", "embed_out")


def _embedding(model: nn.Module) -> nn.Embedding:
    # transformers' way; Lorica's decoder has one embedding.
    get_embedding = getattr(model, "get_input_embeddings", None)
    if get_embedding:
        return cast(nn.Embedding, get_embedding())
    return next(module for module in model.modules() if isinstance(module, nn.Embedding))


def _hidden(config: dict[str, Any]) -> int:
    hidden = config.get("hidden_size", config.get("n_embd"))
    return hidden if isinstance(hidden, int) else 0


def _head_dim(config: dict[str, Any]) -> int:
    head_dim, hidden, heads = (config.get(key) for key in ("head_dim", "hidden_size", "num_attention_heads"))
    if isinstance(head_dim, int) and head_dim > 0:
        return head_dim
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 0 else 0
