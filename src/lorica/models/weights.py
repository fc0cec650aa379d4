"""Base weights from a Hugging Face folder or a GGUF file: tensors in, a `Decoder` out. Pickle is never read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lorica.errors import ModelError
from lorica.file_signatures import HEAD_BYTES, LFS_FIX, Content, recognise
from lorica.gguf.tensors import CheckpointTensor, stored_tensors
from lorica.models.allocator import keep_buffers
from lorica.models.base_folder import BaseFolder
from lorica.models.decoder import Decoder
from lorica.models.device import find_device
from lorica.models.families import DecoderConfig
from lorica.models.gguf_layers import GgufEmbedding, GgufLinear, GgufWeight, read_tensor
from lorica.models.gptq_awq import dequantize_layer
from lorica.models.gptq_awq_config import PACKED_TENSORS, PackedFormat, read_packed_format
from lorica.models.nf4 import Nf4Linear, require_bitsandbytes
from lorica.models.weight_files import AGAIN, refuse_adapter_inside, weight_files
from lorica.names import utf8_path
from lorica.precision import PRECISIONS

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name, row in PRECISIONS.items() if not row.quantized}

_READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def load_decoder(
    base_folder: BaseFolder,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    load_in_4bit: bool = False,
    as_stored: bool = False,
) -> Decoder:
    """Load a base model for inference or as the frozen part of training.

    dtype: None keeps the precision of the file. In float32, bfloat16 or float16 weights that need no conversion are
    mapped from the file, not copied. load_in_4bit: the linear layers of all decoder blocks are held as NF4 and computed
    in `dtype`; each is quantized as it is read, so the full weights never exist at once. as_stored: every weight keeps
    the dtype of the file, also where they differ; for `CpuDecoder`, which converts them one layer after the other. GPTQ
    and AWQ checkpoints are dequantized exactly, then in `dtype`, or that of their scales; quantized weights of a GGUF
    file likewise, in `dtype` or float32; as_stored its matrices stay in the file's blocks (`GgufLinear`).

    Raises ModelError for missing, truncated or unexpected weights and for a device that is not there,
    MissingExtraError when 4-bit loading needs bitsandbytes and it is not installed.
    """
    torch_device = find_device(device)
    refuse_adapter_inside(base_folder.path)
    keep_buffers()
    if load_in_4bit:
        require_bitsandbytes()
    config = base_folder.decoder_config
    with torch.device("meta"):
        decoder = Decoder(config)
    packed_format = read_packed_format(base_folder.config, base_folder.config_path)
    reader = _WeightLoader(base_folder.path, config, decoder, torch_device, load_in_4bit, packed_format)
    if base_folder.is_gguf:
        reader.read_gguf(dtype, as_stored=as_stored)
    else:
        reader.read(dtype, as_stored=as_stored)
    decoder.load_state_dict(reader.loaded, strict=False, assign=True)
    if config.tied_embeddings and not (base_folder.is_gguf and as_stored):
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    return decoder.requires_grad_(False).eval()


class _WeightLoader:
    """Collects the tensors of all shards, checked against what the decoder expects."""

    def __init__(
        self,
        folder: Path,
        config: DecoderConfig,
        decoder: Decoder,
        device: torch.device,
        quantise: bool,
        packing: PackedFormat | None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._decoder = decoder
        self._device = device
        self._nf4_layers = set(config.linear_shapes()) if quantise else set()
        self._shapes = {weight_name: tensor.shape for weight_name, tensor in decoder.state_dict().items()}
        if config.tied_embeddings:
            del self._shapes[_HEAD]
        self._loaded_names: set[str] = set()
        self._packed_format = packing
        self._packed_layers: dict[str, dict[str, Tensor]] = {}  # of packed layers, by the layer's path
        self._head: tuple[Path, Tensor] | None = None  # of a tied model whose file has one nevertheless
        self.loaded: dict[str, Tensor] = {}

    def read(self, dtype: torch.dtype | None, *, as_stored: bool) -> None:
        shard_paths = weight_files(self._folder)
        for shard_path in shard_paths:
            with shard_path.open("rb") as shard_file:
                if recognise(shard_file.read(HEAD_BYTES)) is Content.LFS_POINTER:
                    raise ModelError(f"{shard_path}: {Content.LFS_POINTER}", fix=LFS_FIX)
        for shard_path in shard_paths:
            try:
                with (
                    utf8_path(shard_path) as readable_path,
                    safe_open(readable_path, framework="pt", device=str(self._device)) as open_shard,
                ):
                    for weight_name in open_shard.keys():  # noqa: SIM118 - a safe_open handle is no mapping
                        if self._is_packed(weight_name):
                            path, _, tensor_name = weight_name.rpartition(".")
                            self._packed_layers.setdefault(path, {})[tensor_name] = open_shard.get_tensor(weight_name)
                        elif weight_name == _HEAD and self._config.tied_embeddings:
                            self._head = shard_path, open_shard.get_tensor(weight_name)
                        elif self._expects(shard_path, weight_name, open_shard):
                            self._assign(
                                shard_path,
                                weight_name,
                                open_shard.get_tensor(weight_name),
                                None if as_stored else dtype,
                            )
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{shard_path}: not a whole safetensors file: {error}", fix=AGAIN) from error
        self._dequantize_packed(dtype)
        self._resolve_tied_head(dtype, as_stored=as_stored)
        self._check_missing()
        if dtype is None and not as_stored:
            self._unify_dtype()

    def read_gguf(self, dtype: torch.dtype | None, *, as_stored: bool) -> None:
        """As `read`, of a GGUF file."""
        for weight_name, stored in stored_tensors(self._folder).items():
            if weight_name not in self._shapes:
                raise ModelError(
                    f"{self._folder}: holds {weight_name!r}; by its metadata this {self._config.family} model has no "
                    "such tensor",
                    fix="convert the model anew, or use its Hugging Face folder",
                )
            self._check_shape(self._folder, weight_name, stored.shape)
            if as_stored and len(stored.shape) > 1:
                self._place_stored(weight_name, stored)
            else:
                tensor = read_tensor(stored).to(self._device)
                self._assign(self._folder, weight_name, tensor, None if as_stored else dtype)
        self._check_missing()
        if dtype is None and not as_stored:
            self._unify_dtype()

    def _place_stored(self, weight_name: str, stored: CheckpointTensor) -> None:
        self._loaded_names.add(weight_name)
        module_path, weight = weight_name.removesuffix(".weight"), GgufWeight.mapped(stored)
        if weight_name == _EMBEDDING:
            self._replace(module_path, GgufEmbedding(weight))
            module_path = "lm_head" if self._config.tied_embeddings else ""
        if module_path:
            self._replace(module_path, GgufLinear(weight, bias=f"{module_path}.bias" in self._shapes))

    def _check_missing(self) -> None:
        missing_names = sorted(set(self._shapes) - self._loaded_names)
        if missing_names:
            missing_count = f"{len(missing_names)} of {len(self._shapes)} weights are missing"
            fix = f"{AGAIN}; a model that has no head of its own says tie_word_embeddings true in config.json"
            raise ModelError(
                f"{self._folder}: {missing_count}, the first is {missing_names[0]}",
                fix=fix if missing_names == [_HEAD] else AGAIN,
            )

    def _is_packed(self, weight_name: str) -> bool:
        path, _, tensor_name = weight_name.rpartition(".")
        return self._packed_format is not None and tensor_name in PACKED_TENSORS and f"{path}.weight" in self._shapes

    def _dequantize_packed(self, dtype: torch.dtype | None) -> None:
        """Dequantize the packed layers exactly, then convert them to `dtype` or that of their scales."""
        for layer_path, tensors in self._packed_layers.items():
            if self._packed_format is None or not {"qweight", "qzeros", "scales"} <= tensors.keys():
                continue  # reported as missing below
            weight_name = f"{layer_path}.weight"
            weight = dequantize_layer(
                {tensor_name: tensor.cpu() for tensor_name, tensor in tensors.items()},
                self._packed_format,
                self._shapes[weight_name],
                layer_path,
            )
            self._assign(self._folder, weight_name, weight.to(self._device), dtype or tensors["scales"].dtype)
            tensors.clear()

    def _expects(self, shard_path: Path, name: str, open_shard: Any) -> bool:
        if name in self._shapes:
            return True
        # Packed checkpoints give a bias to layers that have none: zeros.
        if self._packed_format is not None and name.endswith(".bias") and not bool(open_shard.get_tensor(name).any()):
            return False
        # Old checkpoints carry rotary tables, which follow from the config.
        if name.endswith("rotary_emb.inv_freq"):
            return False
        has_adapter = ".lora_" in name or ".base_layer." in name
        raise ModelError(
            f"{shard_path}: holds {name}; by its config.json this {self._config.family} model has no such weight",
            fix="merge the adapter into the model (merge_and_unload of PEFT) and save it again"
            if has_adapter
            else "download config.json and weights of the same revision; engine=transformers leaves out what it has no "
            "place for",
        )

    def _resolve_tied_head(self, dtype: torch.dtype | None, *, as_stored: bool) -> None:
        """The head in the file of a tied model is the embedding where that is missing, else it must be a copy of it."""
        if self._head is None:
            return
        (path, head_weight), self._head = self._head, None
        if _EMBEDDING not in self._loaded_names:
            self._assign(path, _EMBEDDING, head_weight, None if as_stored else dtype)
            return
        embedding_weight = self.loaded[_EMBEDDING]
        if head_weight.shape != embedding_weight.shape or not torch.equal(
            head_weight.to(embedding_weight.dtype), embedding_weight
        ):
            raise ModelError(
                f"{path}: {_HEAD} is another than {_EMBEDDING}; by config.json (tie_word_embeddings true) they are one",
                fix="set tie_word_embeddings to false in config.json to compute with the file's own head (transformers "
                f"does so), or save the model again without {_HEAD}",
            )

    def _assign(self, shard_path: Path, weight_name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
        if tensor.dtype not in _READABLE:
            raise ModelError(
                f"{shard_path}: {weight_name} is stored as {str(tensor.dtype).removeprefix('torch.')}; "
                "the native decoder reads float32, bfloat16 and float16",
                fix="use the model's unquantised repository, or engine=transformers",
            )
        self._check_shape(shard_path, weight_name, tensor.shape)
        if weight_name in self._loaded_names:
            raise ModelError(f"{shard_path}: {weight_name} is in two shards", fix=AGAIN)
        self._loaded_names.add(weight_name)
        module_path = weight_name.removesuffix(".weight")
        if module_path in self._nf4_layers:
            has_bias = f"{module_path}.bias" in self._shapes
            self._replace(module_path, Nf4Linear(tensor, dtype or tensor.dtype, bias=has_bias))
        else:
            self.loaded[weight_name] = tensor.to(dtype or tensor.dtype)

    def _check_shape(self, shard_path: Path, weight_name: str, shape: Sequence[int]) -> None:
        expected = list(self._shapes[weight_name])
        if list(shape) != expected:
            raise ModelError(
                f"{shard_path}: {weight_name} has shape {list(shape)}, config.json implies {expected}",
                fix="config.json and weights are of different models; download both again",
            )

    def _replace(self, module_path: str, module: nn.Module) -> None:
        parent_path, _, attribute = module_path.rpartition(".")
        setattr(self._decoder.get_submodule(parent_path), attribute, module)

    def _unify_dtype(self) -> None:
        # A few files mix precisions (norms in float32); one forward pass needs one.
        embedding_dtype = self.loaded[_EMBEDDING].dtype
        self.loaded = {weight_name: tensor.to(embedding_dtype) for weight_name, tensor in self.loaded.items()}
