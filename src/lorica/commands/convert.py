"""`lorica convert`: an adapter that only a pickle or MLX holds, as PEFT's folder that can be checked and used."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorica.commands.arguments import as_path, emit, parser
from lorica.errors import AdapterError, UsageError
from lorica.names import shell_word

if TYPE_CHECKING:
    from lorica.adapters.convert import Conversion
    from lorica.vetting.files.safe_folder import SafeFolder

_ABOUT = """\
Write an adapter that is a PyTorch pickle (adapter_model.bin) or MLX's (adapters.safetensors, adapters.npz) as PEFT's
folder with safetensors, so that it can be checked and used. No code of a pickle is run: its tensors are read by a
reader that knows nothing else, and a pickle that asks for more is refused. SOURCE stays as it is."""
_EXAMPLES = """\
  lorica convert downloads/news                     writes downloads/news-peft
  lorica convert downloads/news adapters/news
  lorica convert mlx/adapters adapters/mine         the scale of MLX becomes lora_alpha
  lorica convert run/adapter_model.bin adapters/run"""
# What belongs to an adapter beside its weights: the card, the tokenizer, the log of its training.
_BESIDE = (
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "trainer_state.json",
)  # fmt: skip
_MAX_BESIDE = 256 << 20
_USUAL = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors", "adapters.npz")


def run(arguments: Sequence[str]) -> int:
    """Convert one adapter."""
    options = _parse(arguments)
    from lorica.adapters.convert import read_foreign, write_converted

    with _located(options.source) as (folder, name, packed):
        output = options.output or _beside_source(options.source)
        _check_output(output, folder.path)
        conversion = read_foreign(folder.path / name, _config(folder))
        beside = _beside(folder, packed, conversion)
        size = write_converted(conversion, output, beside)
    result = _result(conversion, options.source, output, size, beside)
    emit(result, as_json=options.json, text=_text(result))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = parser("convert", _ABOUT, _EXAMPLES, overrides=False)
    options.add_argument(
        "source", metavar="SOURCE", type=as_path, help="the adapter's folder, file of weights or archive"
    )
    options.add_argument(
        "output", metavar="OUTPUT", nargs="?", type=as_path,
        help="the folder to write, new or empty; SOURCE-peft beside SOURCE where none is named",
    )  # fmt: skip
    parsed: argparse.Namespace = options.parse_args(list(arguments))
    return parsed


@contextlib.contextmanager
def _located(source: Path) -> Iterator[tuple[SafeFolder, str, Collection[str]]]:
    """The files of the adapter's folder, which one holds the weights, and what was left in an archive: of all that
    `lorica check` takes for one adapter (an archive, an entry of the cache, a run).

    Raises AdapterError where there is none, where there are several, and for links that lead out of the folder.
    """
    from lorica.adapters.config import CONFIG_NAME
    from lorica.vetting.files.archives import is_archive
    from lorica.vetting.files.safe_folder import open_safe_folder
    from lorica.vetting.files.sources import AdapterSource, find_sources
    from lorica.vetting.files.unpack import opened

    file = (source.is_file() or source.is_symlink()) and not source.is_dir()
    file = file and not is_archive(source) and source.name != CONFIG_NAME
    if file or (source.is_dir() and _weight_names(os.listdir(source))):
        folder = source.parent if file else source
        sources = [AdapterSource(name=folder.name, user_path=source, kind="folder", path=folder)]
    else:
        sources = find_sources([source])
    if len(sources) != 1:
        listed = ", ".join(str(adapter.user_path) for adapter in sources[:5]) + (" ..." if len(sources) > 5 else "")
        raise AdapterError(f"{source}: holds {len(sources)} adapters: {listed}", fix="name one of them")
    with opened(sources[0]) as unpacked:
        for finding in unpacked.findings:
            if finding.severity == "reject":
                raise AdapterError(f"{source}: {finding.title}: {finding.seen}", fix=finding.fix)
        try:
            safe_folder = open_safe_folder(unpacked, [])
            name = source.name if file else _weights(safe_folder)
            _require(safe_folder, name)
            yield safe_folder, name, unpacked.members
        except AdapterError as error:  # where an archive was unpacked to tells nobody anything
            text = error.message
            if unpacked.unpacked:
                text = text.replace(str(unpacked.path), str(source))
            raise AdapterError(text, fix=error.fix) from error.__cause__


def _weight_names(names: Iterable[str]) -> list[str]:
    """Those of files that may hold an adapter's weights."""
    from lorica.vetting.files.listing import OF_TRAINING, WEIGHT_SUFFIXES

    return [name for name in names if name.lower().endswith(WEIGHT_SUFFIXES) and not OF_TRAINING.fullmatch(name)]


def _weights(folder: SafeFolder) -> str:
    from lorica.adapters.methods import FORMATS, method_of_files

    names = folder.top_level()
    usual = [name for name in _USUAL if name in names]
    if "adapter_model.safetensors" in usual:
        return usual[0]  # whatever it is: loaders take it
    chosen = usual or _weight_names(names)
    if len(chosen) == 1:
        return chosen[0]
    tool = method_of_files(names)
    if tool is not None and tool[0] != "mlx":
        raise AdapterError(f"{folder.path}: is {FORMATS[tool[0]].title}", fix=FORMATS[tool[0]].reader)
    if not chosen:
        raise AdapterError(
            f"{folder.path}: holds no weights; there is {folder.describe()}", fix="name the right folder"
        )
    listed = ", ".join(chosen[:5]) + (" ..." if len(chosen) > 5 else "")
    raise AdapterError(
        f"{folder.path}: holds {len(chosen)} files of weights: {listed}",
        fix=f"name the one you mean: lorica convert {shell_word(str(folder.path / chosen[-1]))} OUTPUT",
    )


def _require(folder: SafeFolder, name: str) -> None:
    """Raises AdapterError for a file that may not be read: a pipe, a link out of the folder."""
    refusal = folder.refusal(name)
    if refusal is not None:
        raise AdapterError(f"{folder.path / name}: {refusal.title}: {refusal.seen}", fix=refusal.fix)
    if name not in folder.files:
        raise AdapterError(f"{folder.path / name}: is no file of weights", fix="name an adapter's folder")


def _config(folder: SafeFolder) -> bytes | None:
    from lorica.adapters.config import CONFIG_NAME, MAX_CONFIG_BYTES

    if CONFIG_NAME not in folder.top_level():
        return None
    _require(folder, CONFIG_NAME)
    raw = _read(folder.path / CONFIG_NAME, MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise AdapterError(f"{folder.path / CONFIG_NAME}: has over {MAX_CONFIG_BYTES} bytes", fix="save it again")
    return raw


def _beside(folder: SafeFolder, packed: Collection[str], conversion: Conversion) -> dict[str, bytes]:
    """The files to copy, by name. What is no regular file of the folder, too large, or left in an archive is told."""
    files = {}
    for name in _BESIDE:
        if name in packed:
            conversion.notes.append(f"{name} was not copied: it is still in the archive")
        if name not in folder.top_level():
            continue
        if folder.files.get(name, _MAX_BESIDE + 1) > _MAX_BESIDE:
            conversion.notes.append(f"{name} was not copied: it leads out of the folder, or is too large")
            continue
        files[name] = _read(folder.path / name, _MAX_BESIDE)
    return files


def _read(path: Path, most: int) -> bytes:
    from lorica.adapters.json_document import read_capped

    try:
        return read_capped(path, most)
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error.strerror})", fix="look at its permissions") from error


def _beside_source(source: Path) -> Path:
    """The folder to write where none is named. Raises UsageError in the Hugging Face cache: it is not ours to fill."""
    from lorica.vetting.files.archives import SUFFIXES

    target = source.resolve()
    if any(folder_name.startswith("models--") for folder_name in target.parts):
        raise UsageError(f"{source} lies in a cache of models", fix=f"lorica convert {shell_word(str(source))} OUTPUT")
    if target.is_file():
        archive = next((suffix for suffix in SUFFIXES if target.name.lower().endswith(suffix)), "")
        target = target.with_name(target.name[: -len(archive)]) if archive else target.parent
    return target.with_name(f"{target.name}-peft")


def _check_output(output: Path, folder: Path) -> None:
    """Raises UsageError for an output that is there already, or that lies within the source."""
    if output.resolve().is_relative_to(folder.resolve()) and output.resolve() != folder.resolve():
        raise UsageError(f"{output} lies within {folder}, which stays as it is", fix="name a folder outside of it")
    if not output.exists():
        return
    if not output.is_dir() or any(output.iterdir()):
        state = "holds files already" if output.is_dir() else "is a file"
        raise UsageError(f"{output} {state}; allowed: a new or an empty folder", fix="name another OUTPUT")


def _result(conversion: Conversion, source: Path, output: Path, size: int, beside: dict[str, bytes]) -> dict[str, Any]:
    dtypes: dict[str, int] = {}
    for tensor in conversion.tensors.values():
        dtypes[tensor.dtype] = dtypes.get(tensor.dtype, 0) + 1
    config = "none" if conversion.config is None else "written" if conversion.written else "copied"
    return {
        "source": str(source),
        "weights": conversion.weights.name,
        "form": conversion.form,
        "output": str(output),
        "tensors": len(conversion.tensors),
        "bytes": size,
        "dtypes": dtypes,
        "config": config,
        "copied": sorted(beside),
        "notes": conversion.notes,
    }


def _text(result: dict[str, Any]) -> str:
    kinds = ", ".join(f"{count} {dtype}" for dtype, count in result["dtypes"].items())
    lines = [
        f"{result['output']}: {result['tensors']} tensors ({kinds}), {result['bytes']} bytes",
        f"  from      {result['source']}: {result['weights']}, {result['form']}",
        f"  config    {result['config']}",
    ]
    if result["copied"]:
        lines.append(f"  copied    {', '.join(result['copied'])}")
    lines += [f"  note      {note}" for note in result["notes"]]
    return "\n".join([*lines, f"next: lorica check {shell_word(result['output'])}"])
