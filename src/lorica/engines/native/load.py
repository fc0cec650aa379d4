"""Loads the base model of the native engine in the form that suits device and precision."""

from __future__ import annotations

from lorica.engines.base import EngineSettings
from lorica.errors import EngineError
from lorica.models.base_folder import BaseFolder
from lorica.models.cpu.cpu_decoder import AnyDecoder, CpuDecoder
from lorica.models.decoder import Decoder
from lorica.models.weights import DTYPES, load_decoder
from lorica.precision import DTYPE_NAMES, precision_of


def load_for(base: BaseFolder, settings: EngineSettings, device: str) -> AnyDecoder:
    """The base as it runs: on a CPU the `CpuDecoder`; elsewhere, and for four bits, the `Decoder`.

    Raises EngineError for a precision that does not exist there.
    """
    dtype = settings.dtype
    if dtype not in ("auto", *DTYPE_NAMES):
        raise EngineError(f"dtype={dtype!r} is none of auto, {', '.join(DTYPE_NAMES)}", fix="choose one of these")
    if dtype == "gguf" and not base.has_blocks:
        raise EngineError(
            f"dtype=gguf computes with the quantized blocks of a GGUF file, and {base.path} has none",
            fix="use dtype=auto, or int4-weights for little memory",
        )
    if device == "cpu" and not settings.load_in_4bit:
        decoder = load_stored(base, settings)
        if dtype == "auto":
            stored = str(decoder.model.norm.weight.dtype if base.is_gguf else decoder.model.embed_tokens.weight.dtype)
            dtype = "gguf" if base.has_blocks else stored.removeprefix("torch.")
        return CpuDecoder(decoder, dtype)
    if precision_of(dtype).quantized:
        reason = "with load_in_4bit the weights have four bits already" if settings.load_in_4bit else f"device={device}"
        raise EngineError(
            f"dtype={dtype} computes in whole numbers on a CPU; {reason}", fix="use dtype=bfloat16, or device=cpu"
        )
    return load_decoder(base, dtype=DTYPES.get(dtype), device=device, load_in_4bit=settings.load_in_4bit)


def load_stored(base: BaseFolder, settings: EngineSettings) -> Decoder:
    """The base with its weights as its files have them."""
    return load_decoder(base, dtype=DTYPES.get(settings.dtype), as_stored=True)
