"""Is a base model itself sound, whatever adapter is held against it? Its tokenizer, its precision, its loss on text."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from lorica.caches import cache_folder
from lorica.data.digest import bytes_digest
from lorica.data.write import atomic_file
from lorica.errors import DataError, ModelError
from lorica.version import __version__
from lorica.vetting.base.base_loss import base_loss, check_base_loss
from lorica.vetting.base.quantization_levels import check_quantization_levels
from lorica.vetting.base.subspace_cache import base_key
from lorica.vetting.base.tokenizer_roundtrip import check_tokenizer_roundtrip
from lorica.vetting.findings import Finding
from lorica.vetting.measure.model_session import ModelSession, SessionSettings


def check_base_files(base_folder: Path) -> list[Finding]:
    """L318 and L333: what the base's files alone say of it. Nothing raises."""
    return check_tokenizer_roundtrip(base_folder) + check_quantization_levels(base_folder)


def check_base_health(session: ModelSession) -> list[Finding]:
    """The same, and L316 by asking it plain text; worked out once, and kept on disk under the digest of its files and
    how it is asked: what is no number in float16 may be one in float32.

    Raises ModelError, EngineError and PromptError for a base that cannot be asked.
    """
    base_folder = session.settings.base
    cache_path = _cache_file(session.settings)
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        if cache_path is not None:
            return msgspec.json.decode(cache_path.read_bytes(), type=list[Finding])
    engine = session.engine(more_than_pairs=False)
    findings = check_base_files(base_folder) + check_base_loss(base_loss(engine, session.encoder(), base_folder))
    with contextlib.suppress(DataError, OSError):
        if cache_path is not None:
            with atomic_file(cache_path) as cache_file:
                cache_file.write(msgspec.json.encode(findings))
    return findings


def _cache_file(settings: SessionSettings) -> Path | None:
    """None where nothing can be kept."""
    asked = f"{settings.engine} {settings.engine_settings} {settings.chat_template} {settings.thinking} {__version__}"
    try:
        key = bytes_digest(f"{base_key(settings.base)} {asked}".encode())
        return cache_folder("base_health") / f"{key.rpartition(':')[2]}.json"
    except (ModelError, OSError):
        return None
