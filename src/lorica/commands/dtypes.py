"""Which precision a command computes in: what the configuration says, and what this machine makes of `auto`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lorica.commands.arguments import warn
from lorica.config.schema import Config, TrainingConfig
from lorica.encoder_families import EncoderFamily
from lorica.engine_table import ENGINES
from lorica.engines.base import resolve_device
from lorica.errors import ConfigError
from lorica.hardware import this_machine
from lorica.models.base_folder import BaseFolder
from lorica.precision import precision_of
from lorica.precision_choice import SMALL, for_accelerator, for_answers, for_training, slow_answers, slow_training


@dataclass(frozen=True)
class TrainingPrecision:
    """weights: dtype of the frozen base. settings: with `bf16` and `fp16` decided. upcast: the base is multiplied in
    float32, whatever its weights are."""

    weights: str
    settings: TrainingConfig
    upcast: bool


def answer_dtype(config: Config, base_model: BaseFolder, *, proof: bool = False) -> str:
    """`model.dtype` with `auto` decided: the blocks of a GGUF file, else what suits this machine; a choice that is slow
    here is told on standard error.

    proof: adapters are examined, or passports made: then `auto` is float32 up to `SMALL` parameters.
    """
    if base_model.encoder_family is not None:
        return _encoder_dtype(config, base_model.encoder_family)
    dtype, native = config.model.dtype, ENGINES[config.engine.name].quantized and not config.model.load_in_4bit
    if resolve_device(config.model.device) != "cpu":
        return for_accelerator(this_machine()).dtype if dtype == "auto" else dtype
    from lorica.models.cpu.rates import measured_rates

    parameters = count_parameters(base_model)
    if dtype == "auto":
        if proof and parameters <= SMALL:
            return "float32"
        if native and base_model.has_blocks:
            return "gguf"
        return for_answers(this_machine(), measured_rates(), parameters, native=native).dtype
    if advice := slow_answers(this_machine(), measured_rates(), parameters, dtype, native=native):
        warn(advice)
    if dtype == "int4-weights" and base_model.has_4_bit_blocks:
        warn(
            "model.dtype=int4-weights rounds the file's 4-bit blocks a second time, which moves log-probabilities by "
            "up to 3 nats: take model.dtype=gguf (the blocks as they are) or int8-weights"
        )
    return dtype


def _encoder_dtype(config: Config, family: EncoderFamily) -> str:
    """On a CPU float32, which costs a small model little; on a GPU what that is fast in, where the family survives it.

    Raises ConfigError for a precision that the family overflows in."""
    dtype = config.model.dtype
    if dtype == "auto":
        on_cpu = resolve_device(config.model.device) == "cpu"
        fast = "float32" if on_cpu else for_accelerator(this_machine()).dtype
        return fast if fast in family.dtypes else family.dtypes[0]
    if dtype not in family.dtypes:
        raise ConfigError(
            f"model.dtype={dtype}: {family.model_type} overflows in it; allowed: {', '.join(family.dtypes)}",
            fix=f"model.dtype={family.dtypes[0]}, or leave it out",
        )
    return dtype


def training_precision(config: Config, base_model: BaseFolder) -> TrainingPrecision:
    """`model.dtype`, `training.bf16` and `training.fp16` with what they leave open decided; a choice that is slow here
    is told on standard error. Raises ConfigError for a precision that nothing can be trained through.
    """
    dtype, settings = config.model.dtype, config.training
    if not precision_of(dtype).trainable:
        raise ConfigError(
            f"model.dtype={dtype} is for answering: no gradient passes through quantized weights",
            fix="model.dtype=auto, or model.load_in_4bit=true for less memory",
        )
    if resolve_device(config.model.device) != "cpu":
        weights = for_accelerator(this_machine()).dtype if dtype == "auto" else dtype
        return TrainingPrecision(weights, settings, upcast=False)
    from lorica.models.cpu.rates import measured_rates

    choice = for_training(this_machine(), measured_rates(), count_parameters(base_model), dtype)
    products = "bfloat16" if settings.bf16 else choice.products
    if settings.bf16 and (advice := slow_training(this_machine(), measured_rates(), products)):
        warn(advice)
    # The layers of 4 bits are dequantized to what they are multiplied in.
    weights = products if config.model.load_in_4bit else choice.weights
    return TrainingPrecision(
        weights, replace(settings, bf16=products == "bfloat16"), upcast=products == "float32" != weights
    )


def count_parameters(base_model: BaseFolder) -> int:
    """About how many numbers the base has: its files' size by the bytes of the dtype that its config names; exactly, of
    a GGUF file."""
    if base_model.is_gguf:
        return base_model.stored_numbers
    stated = str(base_model.config.get("dtype", base_model.config.get("torch_dtype", "")))
    file_bytes = sum(weight_file.stat().st_size for weight_file in base_model.weight_files)
    return int(file_bytes / precision_of(stated.removeprefix("torch.")).bytes_per_weight)
