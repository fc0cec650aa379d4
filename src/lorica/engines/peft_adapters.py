"""An adapter folder into a transformers model through PEFT: all of it, or an error before PEFT changes the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from lorica.adapters.folder import AdapterFolder
from lorica.adapters.rescaled_copies import write_variant
from lorica.adapters.tensor_names import module_of
from lorica.errors import AdapterError, EngineError, MissingExtraError
from lorica.models.offline import import_bitsandbytes_offline, offline
from lorica.names import utf8_path


def attach_adapter(model: Any, opened: AdapterFolder, peft_name: str) -> tuple[Any, list[str]]:
    """The model with the adapter under the name `inner`, and the tensors that the file or the model alone has.

    Raises AdapterError for an adapter that does not fit the model, MissingExtraError without PEFT.
    """
    import_bitsandbytes_offline()
    try:
        from peft import PeftModel
    except ImportError as error:
        needed_for = "an adapter with engine=transformers or engine=encoder"
        raise MissingExtraError("peft", extra="peft", needed_for=needed_for) from error
    _check_fit(model, opened)
    try:
        with offline(), warnings.catch_warnings(), _without_patterns(opened) as folder:
            # PEFT reads this attribute, which transformers 5 deprecates; nothing a user could act on.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            warnings.filterwarnings("ignore", ".*merging LoRA weights won't be possible")  # nothing is merged
            warnings.filterwarnings("ignore", "Found missing adapter keys|Model has `tie_word")  # judged below
            if isinstance(model, PeftModel):
                model.load_adapter(folder, adapter_name=peft_name)
            else:
                model = PeftModel.from_pretrained(model, folder, adapter_name=peft_name)
    except (ValueError, RuntimeError, KeyError) as error:
        raise misfit(opened, f"PEFT refuses it: {error}") from error
    # PEFT passes over what does not match with a warning at most.
    applied_names = {_plain(name, peft_name) for name, _ in model.named_parameters() if f".{peft_name}" in name}
    stored_names = {_plain(name, peft_name) for name in opened.tensors if not _of_base(name)}
    return model.eval(), sorted(applied_names ^ stored_names)


class PeftAdapters:
    """Adapters by name in one transformers model, which PEFT changes: `model` is what to run, `damage` why it no longer
    can be, "" for sound."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.damage = ""
        self._names: dict[str, str] = {}  # name -> the name inside PEFT, where dots are not allowed
        self._added = 0
        self._leftovers: list[str] = []

    def add(self, name: str, adapter: AdapterFolder) -> None:
        """Attach an adapter. Raises AdapterError for one that PEFT would apply only in part, MissingExtraError without
        PEFT."""
        peft_name = f"adapter_{self._added}"
        self._added += 1
        try:
            self.model, difference = attach_adapter(self.model, adapter, peft_name)
        except AdapterError as error:
            # PEFT changes the model before it knows that it fails.
            if any(f".{peft_name}" in parameter_name for parameter_name, _ in self.model.named_parameters()):
                self.damage = f"{adapter.path} failed to load half-way: {error.message}"
            raise
        if difference:
            self._leftovers.append(peft_name)
            self._clear()
            raise misfit(adapter, f"{len(difference)} tensors have no counterpart, the first is {difference[0]}")
        self._names[name] = peft_name
        self._clear()

    def parameters(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """The numbers that an adapter brought, by their names in the model."""
        mark = f".{self._names[name]}"
        return ((path, tensor) for path, tensor in self.model.named_parameters() if f"{mark}." in f"{path}.")

    def remove(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        self._leftovers.append(self._names.pop(name))
        self._clear()

    def using(self, name: str | None) -> AbstractContextManager[object]:
        """Within the block the adapter is applied, and no other; None: none is. Raises EngineError for a model that an
        adapter has damaged."""
        if self.damage:
            raise EngineError(f"this engine's model was changed: {self.damage}", fix="load the engine again")
        if name is not None:
            self.model.set_adapter(self._names[name])
            return nullcontext()
        wrapped = hasattr(self.model, "disable_adapter")
        return cast(AbstractContextManager[object], self.model.disable_adapter() if wrapped else nullcontext())

    def _clear(self) -> None:
        """Delete what was removed, as soon as another adapter is there: PEFT cannot be without any."""
        with warnings.catch_warnings():
            # PEFT warns that it activates another adapter; every run sets its own.
            warnings.simplefilter("ignore")
            while self._leftovers and self._names:
                self.model.delete_adapter(self._leftovers.pop())


def _of_base(tensor_name: str) -> bool:
    """Whether a tensor is one of the base model's own, which PEFT saves beside an adapted embedding."""
    return ".base_layer." in tensor_name


def _read(opened: AdapterFolder, tensor_name: str) -> Tensor:
    with utf8_path(opened.weights) as path, safe_open(path, framework="pt") as file:
        return cast(Tensor, file.get_tensor(tensor_name))


@contextmanager
def _without_patterns(opened: AdapterFolder) -> Iterator[Path]:
    """A folder that says the same without a regular expression, which PEFT would run: the tensors name the targets."""
    config = opened.config
    if not isinstance(config.target_modules, str) and not isinstance(config.exclude_modules, str):
        with utf8_path(opened.path) as path:
            yield Path(path)
        return
    target_modules = sorted({module_of(tensor_name)[0] for tensor_name in opened.tensors if ".lora_" in tensor_name})
    plain_config = msgspec.structs.replace(
        config, target_modules=target_modules, exclude_modules=None, layers_to_transform=None, layers_pattern=None
    )
    with TemporaryDirectory(prefix="lorica-") as temporary:
        write_variant(Path(temporary) / "adapter", plain_config, opened.weights)
        yield Path(temporary) / "adapter"


def _plain(tensor_name: str, peft_name: str) -> str:
    """The name of a parameter inside PEFT, and of the same tensor in a file."""
    file_name = tensor_name.replace(".modules_to_save", "").replace(f".{peft_name}", "")
    # Magnitudes are parameters of a small module in memory, and bare tensors in the file.
    return file_name.removesuffix(".weight") if "lora_magnitude_vector" in file_name else file_name


def _check_fit(model: Any, opened: AdapterFolder) -> None:
    """Compare names and shapes before PEFT changes the model, which it cannot undo."""
    base_model = model.get_base_model() if hasattr(model, "get_base_model") else model
    # PEFT keeps a module that an earlier adapter brings its own of as `original_module`.
    base_modules = {name.replace(".original_module", ""): module for name, module in base_model.named_modules()}
    for tensor_name, info in opened.tensors.items():
        path, factor_name = module_of(tensor_name)
        if path not in base_modules:
            raise misfit(opened, f"it adapts {path}, which the base model does not have")
        base_module = base_modules[path]
        if factor_name not in ("lora_A", "lora_B"):
            parameter = getattr(base_module, tensor_name.rsplit(".", 1)[1], None) if factor_name == "saved" else None
            if factor_name == "saved" and tuple(getattr(parameter, "shape", ())) != info.shape:
                raise misfit(opened, f"it replaces {path} by one of another shape, {list(info.shape)}")
            if _of_base(tensor_name) and not torch.equal(
                _read(opened, tensor_name).to(parameter), cast(Tensor, parameter)
            ):
                raise misfit(opened, f"it brings its own {path}, which would replace the base model's")
            continue
        if not (hasattr(base_module, "in_features") and hasattr(base_module, "out_features")):
            raise misfit(opened, f"it adapts {path}, which is no linear layer of the base model")
        wide_in, wide_out = base_module.in_features, base_module.out_features
        width, expected_width = (info.shape[1], wide_in) if factor_name == "lora_A" else (info.shape[0], wide_out)
        if width != expected_width:
            raise misfit(opened, f"{path}.{factor_name} is made for width {width}, the base model has {expected_width}")


def misfit(opened: AdapterFolder, reason: str) -> AdapterError:
    """The error for an adapter that was made for another base model."""
    return AdapterError(
        f"{opened.path}: does not fit the base model: {reason}",
        fix="use the base model the adapter was trained on",
    )
