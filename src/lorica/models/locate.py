"""Finding a base model on this machine: a folder, a GGUF file, the embedded model or a cache. Never the network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lorica.errors import ModelError
from lorica.gguf.file_header import SUFFIX, is_gguf
from lorica.gguf.metadata import JOIN_PARTS
from lorica.models.packaged_model import PACKAGE, locate_in_package
from lorica.names import listed

EMBEDDED = "embedded:"

_PART = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.gguf$", re.IGNORECASE)  # how llama.cpp calls the parts of a model

_FIX = "give the folder that holds config.json, *.safetensors and the tokenizer, or a GGUF file (*.gguf)"


def locate_model(model_name: str, *, cache_dir: str = "", revision: str = "", environ: Mapping[str, str]) -> Path:
    """The folder that holds `config.json` of a model, or its GGUF file, given as such, as a folder that holds exactly
    one GGUF file and no `config.json`, as `embedded:NAME` or a Hugging Face id.

    cache_dir wins over HF_HUB_CACHE, HF_CACHE_DIR, HF_HOME and the default cache. Raises ModelError naming
    every place it looked.
    """
    if model_name.startswith(EMBEDDED):
        return _embedded(model_name.removeprefix(EMBEDDED))
    if model_name.startswith(PACKAGE):
        return locate_in_package(model_name.removeprefix(PACKAGE))
    model_folder = Path(model_name)
    model_path = _base_in(model_folder)
    if model_path is not None:
        return model_path
    if model_folder.exists():
        description = "a folder without config.json" if model_folder.is_dir() else "a file"
        raise ModelError(f"{model_folder}: {description}, so not a base model", fix=_FIX)
    if not model_name.strip():
        raise ModelError("no base model is named", fix="give model.path, a folder or a Hugging Face id")
    searched = [str(model_folder)]
    if model_name.count("/") == 1 and not model_name.startswith((".", "/", "~")):
        for cache_root in _caches(cache_dir, environ):
            # Some deployments name the cache's root, others its `hub` folder.
            for hub in (cache_root, cache_root / "hub"):
                snapshot = _snapshot(hub / ("models--" + model_name.replace("/", "--")), revision)
                if snapshot is not None:
                    return snapshot
            searched.append(str(cache_root))
    at_revision = f" at revision {revision!r}" if revision else ""
    raise ModelError(
        f"base model {model_name!r}{at_revision} is not on this machine; looked in: {'; '.join(searched)}",
        fix="give a local folder with model.path=DIR, set HF_HOME or HF_CACHE_DIR to the cache that has it, "
        "or download it once with `hf download`",
    )


def embedded_names() -> list[str]:
    """The names of the models that are shipped, for `embedded:NAME`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/config.json"))


def typed_base(path: Path) -> str:
    """A base model's path as it is typed: `embedded:NAME` for one that is shipped."""
    is_shipped = path.parent == Path(__file__).parent and path.name in embedded_names()
    return f"{EMBEDDED}{path.name}" if is_shipped else str(path)


def _embedded(name: str) -> Path:
    embedded = embedded_names()
    if name not in embedded:
        raise ModelError(
            f"no embedded model {name!r}; this installation has: {', '.join(embedded) or 'none'}",
            fix=f"use {EMBEDDED}{embedded[0]}" if embedded else "install Lorica again, with its data files",
        )
    return Path(__file__).parent / name


def _caches(cache_dir: str, environ: Mapping[str, str]) -> list[Path]:
    cache_roots = [cache_dir, *(environ.get(key, "") for key in ("HF_HUB_CACHE", "HF_CACHE_DIR"))]
    if environ.get("HF_HOME"):
        cache_roots.append(str(Path(environ["HF_HOME"]) / "hub"))
    else:
        home_folder = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~") / ".cache")
        cache_roots.append(str(Path(home_folder) / "huggingface" / "hub"))
    return [Path(cache_folder).expanduser() for cache_folder in dict.fromkeys(cache_roots) if cache_folder]


def _snapshot(repository: Path, revision: str) -> Path | None:
    branch = revision or "main"
    reference_path = repository / "refs" / branch
    commit_hash = reference_path.read_text("utf-8").strip() if reference_path.is_file() else branch
    return _base_in(repository / "snapshots" / commit_hash)


def _base_in(model_folder: Path) -> Path | None:
    """The base model at a path, None where there is none. Raises ModelError where several GGUF files may be meant."""
    if (model_folder / "config.json").is_file():
        return model_folder.resolve()
    if is_gguf(model_folder):
        return model_folder.parent.resolve() / model_folder.name  # caches link to names without a suffix
    if not model_folder.is_dir():
        return None
    gguf_files = sorted(path for path in model_folder.iterdir() if path.suffix.lower() == SUFFIX and path.is_file())
    if len(gguf_files) > 1:
        names = listed((path.name for path in gguf_files), 5)
        if all(_PART.search(path.name) for path in gguf_files):
            raise ModelError(f"{model_folder}: holds a model in {len(gguf_files)} parts ({names})", fix=JOIN_PARTS)
        raise ModelError(f"{model_folder}: holds {len(gguf_files)} GGUF files ({names})", fix="give the path of one")
    return model_folder.resolve() / gguf_files[0].name if gguf_files else None
