"""`lorica convert`: an adapter that only a pickle or MLX holds, as PEFT's folder that can be checked and used; a model
that only a pickle holds, with safetensors."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorica.adapters.classifier_config import MODEL_CONFIG
from lorica.adapters.config import CONFIG_NAME, MAX_CONFIG_BYTES
from lorica.commands.arguments import as_path, emit, parser
from lorica.errors import AdapterError, UsageError
from lorica.names import shell_word

if TYPE_CHECKING:
    from lorica.adapters.convert import Conversion
    from lorica.vetting.files.safe_folder import SafeFolder

_ABOUT = """\
Write an adapter that is a PyTorch pickle (adapter_model.bin) or MLX's (adapters.safetensors, adapters.npz) as PEFT's
folder with safetensors, so that it can be checked and used; or a model whose weights are a pickle (pytorch_model.bin,
as of DeBERTa v3) as a folder with safetensors. No code of a pickle is run: its tensors are read by a reader that knows
nothing else, and a pickle that asks for more is refused. SOURCE stays as it is."""
_EXAMPLES = """\
  lorica convert downloads/news                     writes downloads/news-peft
  lorica convert downloads/news adapters/news
  lorica convert mlx/adapters adapters/mine         the scale of MLX becomes lora_alpha
  lorica convert run/adapter_model.bin adapters/run
  lorica convert downloads/deberta-v3-base models/deberta-v3-base"""
# What belongs to an adapter beside its weights: the card, the tokenizer, the log of its training.
_BESIDE = (
    "README.md", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "trainer_state.json",
)  # fmt: skip
_MAX_BESIDE = 256 << 20
_MODEL_PICKLE = "pytorch_model.bin"
_USUAL = ("adapter_model.safetensors", "adapter_model.bin", "adapters.safetensors", "adapters.npz")


def run(arguments: Sequence[str]) -> int:
    """Convert one adapter or model."""
    convert_parser = parser("convert", _ABOUT, _EXAMPLES, overrides=False)
    source_help = "the adapter's folder, file of weights or archive; a model's folder"
    convert_parser.add_argument("source", metavar="SOURCE", type=as_path, help=source_help)
    convert_parser.add_argument(
        "output", metavar="OUTPUT", nargs="?", type=as_path,
        help="the folder to write, new or empty; beside SOURCE where none is named: SOURCE-peft, SOURCE-safetensors",
    )  # fmt: skip
    options = convert_parser.parse_args(list(arguments))
    from lorica.adapters.convert import read_foreign, read_pickled_model, write_converted

    with _located(options.source) as (safe_folder, weights_name, packed_names):
        of_model = _holds_model(safe_folder) and weights_name == _MODEL_PICKLE
        output_folder = options.output or _beside_source(options.source, "safetensors" if of_model else "peft")
        _check_output(output_folder, safe_folder.path)
        config = _config(safe_folder, MODEL_CONFIG if of_model else CONFIG_NAME)
        weights = safe_folder.path / weights_name
        conversion = read_pickled_model(weights, config or b"") if of_model else read_foreign(weights, config)
        copied_files = _beside(safe_folder, packed_names, conversion)
        byte_count = write_converted(conversion, output_folder, copied_files)
    convert_result = _result(conversion, options.source, output_folder, byte_count, copied_files)
    emit(convert_result, as_json=options.json, text=_text(convert_result))
    return 0


@contextlib.contextmanager
def _located(source: Path) -> Iterator[tuple[SafeFolder, str, Collection[str]]]:
    """The files of the adapter's folder, which one holds the weights, and what was left in an archive: of all that
    `lorica check` takes for one adapter (an archive, an entry of the cache, a run).

    Raises AdapterError where there is none, where there are several, and for links that lead out of the folder.
    """
    from lorica.vetting.files.archives import is_archive
    from lorica.vetting.files.safe_folder import open_safe_folder
    from lorica.vetting.files.sources import AdapterSource, find_sources
    from lorica.vetting.files.unpack import opened

    is_weight_file = (source.is_file() or source.is_symlink()) and not source.is_dir()
    is_weight_file = is_weight_file and not is_archive(source) and source.name != CONFIG_NAME
    if is_weight_file or (source.is_dir() and _weight_names(os.listdir(source))):
        source_folder = source.parent if is_weight_file else source
        adapter_sources = [AdapterSource(name=source_folder.name, user_path=source, kind="folder", path=source_folder)]
    else:
        adapter_sources = find_sources([source])
    if len(adapter_sources) != 1:
        source_list = ", ".join(str(adapter.user_path) for adapter in adapter_sources[:5]) + (
            " ..." if len(adapter_sources) > 5 else ""
        )
        raise AdapterError(f"{source}: holds {len(adapter_sources)} adapters: {source_list}", fix="name one of them")
    with opened(adapter_sources[0]) as unpacked:
        for finding in unpacked.findings:
            if finding.severity == "reject":
                raise AdapterError(f"{source}: {finding.title}: {finding.seen}", fix=finding.fix)
        try:
            safe_folder = open_safe_folder(unpacked, [])
            weights_name = source.name if is_weight_file else _weights(safe_folder)
            _require(safe_folder, weights_name)
            yield safe_folder, weights_name, unpacked.members
        except AdapterError as error:  # where an archive was unpacked to tells nobody anything
            message_text = error.message
            if unpacked.unpacked:
                message_text = message_text.replace(str(unpacked.path), str(source))
            raise AdapterError(message_text, fix=error.fix) from error.__cause__


def _weight_names(file_names: Iterable[str]) -> list[str]:
    """Those of files that may hold an adapter's weights."""
    from lorica.vetting.files.listing import OF_TRAINING, WEIGHT_SUFFIXES

    return [name for name in file_names if name.lower().endswith(WEIGHT_SUFFIXES) and not OF_TRAINING.fullmatch(name)]


def _weights(folder: SafeFolder) -> str:
    from lorica.adapters.methods import FORMATS, method_of_files

    file_names = folder.top_level()
    if _holds_model(folder) and _MODEL_PICKLE in file_names:
        return _MODEL_PICKLE
    usual_names = [name for name in _USUAL if name in file_names]
    if "adapter_model.safetensors" in usual_names:
        return usual_names[0]  # whatever it is: loaders take it
    weight_names = usual_names or _weight_names(file_names)
    if len(weight_names) == 1:
        return weight_names[0]
    tool_format = method_of_files(file_names)
    if tool_format is not None and tool_format[0] != "mlx":
        raise AdapterError(f"{folder.path}: is {FORMATS[tool_format[0]].title}", fix=FORMATS[tool_format[0]].reader)
    if not weight_names:
        raise AdapterError(
            f"{folder.path}: holds no weights; there is {folder.describe()}", fix="name the right folder"
        )
    weight_list = ", ".join(weight_names[:5]) + (" ..." if len(weight_names) > 5 else "")
    fix = f"name the one you mean: lorica convert {shell_word(str(folder.path / weight_names[-1]))} OUTPUT"
    raise AdapterError(f"{folder.path}: holds {len(weight_names)} files of weights: {weight_list}", fix=fix)


def _require(folder: SafeFolder, file_name: str) -> None:
    """Raises AdapterError for a file that may not be read: a pipe, a link out of the folder."""
    refusal = folder.refusal(file_name)
    if refusal is not None:
        raise AdapterError(f"{folder.path / file_name}: {refusal.title}: {refusal.seen}", fix=refusal.fix)
    if file_name not in folder.files:
        raise AdapterError(f"{folder.path / file_name}: is no file of weights", fix="name an adapter's folder")


def _holds_model(folder: SafeFolder) -> bool:
    """Whether a folder is a model's and no adapter's."""
    return MODEL_CONFIG in folder.top_level() and CONFIG_NAME not in folder.top_level()


def _config(folder: SafeFolder, config_name: str) -> bytes | None:
    if config_name not in folder.top_level():
        return None
    _require(folder, config_name)
    config_bytes = _read(folder.path / config_name, MAX_CONFIG_BYTES + 1)
    if len(config_bytes) > MAX_CONFIG_BYTES:
        raise AdapterError(f"{folder.path / config_name}: has over {MAX_CONFIG_BYTES} bytes", fix="save it again")
    return config_bytes


def _beside(safe_folder: SafeFolder, packed_names: Collection[str], conversion: Conversion) -> dict[str, bytes]:
    """The files to copy, by name. What is no regular file of the folder, too large, or left in an archive is told."""
    copied_files = {}
    for file_name in _BESIDE:
        if file_name in packed_names:
            conversion.notes.append(f"{file_name} was not copied: it is still in the archive")
        if file_name not in safe_folder.top_level():
            continue
        if safe_folder.files.get(file_name, _MAX_BESIDE + 1) > _MAX_BESIDE:
            conversion.notes.append(f"{file_name} was not copied: it leads out of the folder, or is too large")
            continue
        copied_files[file_name] = _read(safe_folder.path / file_name, _MAX_BESIDE)
    return copied_files


def _read(file_path: Path, max_bytes: int) -> bytes:
    from lorica.adapters.json_document import read_capped

    try:
        return read_capped(file_path, max_bytes)
    except OSError as error:
        raise AdapterError(f"{file_path}: cannot be read ({error.strerror})", fix="look at its permissions") from error


def _beside_source(source: Path, suffix: str) -> Path:
    """The folder to write where none is named. Raises UsageError in the Hugging Face cache: it is not ours to fill."""
    from lorica.vetting.files.archives import SUFFIXES

    target = source.resolve()
    if any(folder_name.startswith("models--") for folder_name in target.parts):
        raise UsageError(f"{source} lies in a cache of models", fix=f"lorica convert {shell_word(str(source))} OUTPUT")
    if target.is_file():
        archive = next((suffix for suffix in SUFFIXES if target.name.lower().endswith(suffix)), "")
        target = target.with_name(target.name[: -len(archive)]) if archive else target.parent
    return target.with_name(f"{target.name}-{suffix}")


def _check_output(output: Path, source: Path) -> None:
    """Raises UsageError for an output that is there already, or that lies within the source."""
    if output.resolve().is_relative_to(source.resolve()) and output.resolve() != source.resolve():
        raise UsageError(f"{output} lies within {source}, which stays as it is", fix="name a folder outside of it")
    if not output.exists():
        return
    if not output.is_dir() or any(output.iterdir()):
        output_state = "holds files already" if output.is_dir() else "is a file"
        raise UsageError(f"{output} {output_state}; allowed: a new or an empty folder", fix="name another OUTPUT")


def _result(
    conversion: Conversion, source: Path, output: Path, byte_count: int, copied_files: dict[str, bytes]
) -> dict[str, Any]:
    config_origin = "none" if conversion.config is None else "written" if conversion.written else "copied"
    return {
        "source": str(source),
        "weights": conversion.weights.name,
        "form": conversion.form,
        "output": str(output),
        "tensors": len(conversion.tensors),
        "bytes": byte_count,
        "dtypes": Counter(tensor.dtype for tensor in conversion.tensors.values()),
        "config": config_origin,
        "of_model": conversion.of_model,
        "copied": sorted(copied_files),
        "notes": conversion.notes,
    }


def _text(result: dict[str, Any]) -> str:
    dtype_list = ", ".join(f"{tensor_count} {dtype_name}" for dtype_name, tensor_count in result["dtypes"].items())
    text_lines = [
        f"{result['output']}: {result['tensors']} tensors ({dtype_list}), {result['bytes']} bytes",
        f"  from      {result['source']}: {result['weights']}, {result['form']}",
        f"  config    {result['config']}",
    ]
    if result["copied"]:
        text_lines.append(f"  copied    {', '.join(result['copied'])}")
    text_lines += [f"  note      {note}" for note in result["notes"]]
    next_command = "train task=rules model.path=" if result["of_model"] else "check "
    return "\n".join([*text_lines, f"next: lorica {next_command}{shell_word(result['output'])}"])
