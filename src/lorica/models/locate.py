"""Finding a base model on this machine: a folder, the embedded model or a cache. Never the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.errors import ModelError

EMBEDDED = "embedded:"

_FIX = "give the folder that holds config.json, *.safetensors and the tokenizer"


def locate_model(name: str, *, cache_dir: str = "", revision: str = "", environ: Mapping[str, str]) -> Path:
    """The folder that holds `config.json` of a model given as a folder, `embedded:NAME` or a Hugging Face id.

    cache_dir wins over HF_HUB_CACHE, HF_CACHE_DIR, HF_HOME and the default cache. Raises ModelError naming
    every place it looked.
    """
    if name.startswith(EMBEDDED):
        return _embedded(name.removeprefix(EMBEDDED))
    folder = Path(name)
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.exists():
        description = "a folder without config.json" if folder.is_dir() else "a file"
        raise ModelError(f"{folder}: {description}, so not a base model", fix=_FIX)
    if not name.strip():
        raise ModelError("no base model is named", fix="give model.path, a folder or a Hugging Face id")
    searched = [str(folder)]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        for cache in _caches(cache_dir, environ):
            # Some deployments name the cache's root, others its `hub` folder.
            for hub in (cache, cache / "hub"):
                snapshot = _snapshot(hub / ("models--" + name.replace("/", "--")), revision)
                if snapshot is not None:
                    return snapshot
            searched.append(str(cache))
    wanted = f" at revision {revision!r}" if revision else ""
    raise ModelError(
        f"base model {name!r}{wanted} is not on this machine; looked in: {'; '.join(searched)}",
        fix="give a local folder with model.path=DIR, set HF_HOME or HF_CACHE_DIR to the cache that has it, "
        "or download it once with `hf download`",
    )


def embedded_names() -> list[str]:
    """The models that are shipped, as they stand behind `embedded:`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/config.json"))


def _embedded(name: str) -> Path:
    have = embedded_names()
    if name not in have:
        raise ModelError(
            f"no embedded model {name!r}; this installation has: {', '.join(have) or 'none'}",
            fix=f"use {EMBEDDED}{have[0]}" if have else "install Lorica again, with its data files",
        )
    return Path(__file__).parent / name


def _caches(cache_dir: str, environ: Mapping[str, str]) -> list[Path]:
    named = [cache_dir, *(environ.get(key, "") for key in ("HF_HUB_CACHE", "HF_CACHE_DIR"))]
    if environ.get("HF_HOME"):
        named.append(str(Path(environ["HF_HOME"]) / "hub"))
    else:
        home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~") / ".cache")
        named.append(str(Path(home) / "huggingface" / "hub"))
    return [Path(folder).expanduser() for folder in dict.fromkeys(named) if folder]


def _snapshot(repository: Path, revision: str) -> Path | None:
    wanted = revision or "main"
    reference = repository / "refs" / wanted
    commit = reference.read_text("utf-8").strip() if reference.is_file() else wanted
    folder = repository / "snapshots" / commit
    return folder if (folder / "config.json").is_file() else None
