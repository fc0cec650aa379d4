"""`lorica kb build` and `lorica kb update`: documents to the index of a subject."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from lorica.commands.arguments import as_base, as_path, emit, inform, parser, warn
from lorica.commands.row_progress import row_progress
from lorica.errors import UsageError
from lorica.names import count_of, listed, shell_word
from lorica.retrieval.build_index import BuildOptions, BuildResult, build_index, update_index
from lorica.retrieval.passage_store import DEFAULT_STORE, STORES, store_of
from lorica.retrieval.split_tokenizer import DEFAULT_TOKENIZER
from lorica.retrieval.table_documents import COLUMNS

_BUILD_EXAMPLES = """  lorica kb build --subject algebra --out kb docs/algebra
  lorica kb build --subject history --out kb history.jsonl.gz --column text=body --tag era=modern
  lorica kb build --subject biology --out kb docs/*.pdf --encoder models/minilm --tokenizer models/qwen3
  lorica kb build --subject patents --out kb patents.parquet --store lancedb"""
_UPDATE_EXAMPLES = """  lorica kb update --subject algebra --out kb docs/algebra
  lorica kb update --subject algebra --out kb --add --tag chapter=2 docs/chapter-2"""
_DEFAULTS = BuildOptions()


def run_build(arguments: Sequence[str]) -> int:
    """Build an index and say what it holds."""
    command = _parser(
        "build",
        "Build the index of one subject from text, Markdown, HTML, PDF and tables (JSONL, JSON, CSV, ...),\n"
        "files or folders of them: cleaned, split by tokens with overlap, without duplicates. With --encoder they\n"
        "are found by meaning, too. A killed build leaves what was there before. docs/retrieval.md says more.",
        _BUILD_EXAMPLES,
    )
    command.add_argument("--force", action="store_true", help="build anew in place of an index that is there")
    command.add_argument(
        "--store",
        choices=tuple(STORES),
        default=DEFAULT_STORE,
        help="where it is kept: sqlite, embedded, or lancedb (extra lancedb) for a subject of more than half a million "
        "passages; both answer alike (%(default)s)",
    )
    options = command.parse_args(list(arguments))
    build_options = msgspec.structs.replace(_options(options), store=options.store)
    result = build_index(
        options.out, options.subject, options.documents, build_options, force=options.force, progress=row_progress
    )
    return _report(options, result, "built")


def run_update(arguments: Sequence[str]) -> int:
    """Update an index and say what changed."""
    command = _parser(
        "update",
        "Bring the index of a subject to what its documents hold now: name all of them. Unchanged files\n"
        "are neither read nor encoded again, passages of files that are gone go, and the result is that of a\n"
        "new build, with the embedded store to the byte. Settings must be those of the build. Questions are\n"
        "answered meanwhile.",
        _UPDATE_EXAMPLES,
    )
    command.add_argument("--add", action="store_true", help="add these documents; those that are not named stay")
    options = command.parse_args(list(arguments))
    build_options = _options(options)
    result = update_index(
        options.out, options.subject, options.documents, build_options, add=options.add, progress=row_progress
    )
    return _report(options, result, "updated")


def _parser(name: str, description: str, examples: str) -> argparse.ArgumentParser:
    command = parser(f"kb {name}", description, examples, overrides=False)
    command.add_argument("documents", nargs="+", type=as_path, metavar="DOCUMENT", help="files, or folders of them")
    command.add_argument("--subject", required=True, help="the subject, one index each; compared as adapters' subjects")
    command.add_argument("--out", required=True, type=as_path, metavar="DIR", help="the folder of indexes")
    encoder_help = "make vectors with the encoder in this folder, or in an installed package: package:NAME"
    command.add_argument("--encoder", type=as_base, default="", metavar="FOLDER", help=encoder_help)
    tokenizer_help = "the model whose tokens are counted, best the base that will answer (%(default)s)"
    command.add_argument("--tokenizer", type=as_base, default=DEFAULT_TOKENIZER, metavar="MODEL", help=tokenizer_help)
    command.add_argument("--length", type=int, default=_DEFAULTS.length, help="tokens of a passage (%(default)s)")
    overlap_help = "tokens that a passage shares with the one before (%(default)s)"
    command.add_argument("--overlap", type=int, default=_DEFAULTS.overlap, help=overlap_help)
    column_help = "; ".join(f"{role}: {', '.join(names)}" for role, names in COLUMNS.items())
    column_help = f"a column of tables, where it is called none of: {column_help}"
    command.add_argument("--column", action="append", default=[], metavar="ROLE=NAME", help=column_help)
    tag_help = "a tag of all these documents, such as chapter=1"
    command.add_argument("--tag", action="append", default=[], metavar="TAG", help=tag_help)
    near_duplicates_help = "passages nearly equal to another with the same numbers (%(default)s)"
    command.add_argument("--near-duplicates", choices=("drop", "keep"), default="drop", help=near_duplicates_help)
    bad_documents_help = "documents and rows that cannot be used: stop, or leave them out and name them (%(default)s)"
    command.add_argument("--bad-documents", choices=("error", "skip"), default="error", help=bad_documents_help)
    return command


def _options(options: argparse.Namespace) -> BuildOptions:
    columns = {}
    for setting in options.column:
        role, separator, name = setting.partition("=")
        if not separator or not name or role not in COLUMNS:
            message = f"--column {setting}; allowed: ROLE=NAME, of {', '.join(COLUMNS)}"
            raise UsageError(message, fix="--column text=body")
        columns[role] = name
    return BuildOptions(
        tokenizer=options.tokenizer,
        length=options.length,
        overlap=options.overlap,
        near_duplicates=options.near_duplicates == "keep",
        columns=columns,
        encoder=options.encoder,
        tags=tuple(options.tag),
        skip_bad=options.bad_documents == "skip",
    )


def _report(options: argparse.Namespace, result: BuildResult, done: str) -> int:
    for bad in result.bad:
        location = bad.path if bad.line is None else f"{bad.path}:{bad.line}"
        warn(f"left out: {location}: {bad.reason}")
    for note in result.notes:
        inform(note)
    plain_values = {
        "index": result.folder,
        **result.manifest.facts(),
        "store": store_of(result.manifest),
        "files_read": result.read,
        "files_reused": result.reused,
        "files_removed": result.removed,
        "passages_encoded": result.encoded,
        "unchanged": result.unchanged,
        "left_out": result.bad,
        "notes": result.notes,
    }
    emit(plain_values, as_json=options.json, text=_as_text(options, result, done))
    return 0


def _as_text(options: argparse.Namespace, result: BuildResult, done: str) -> str:
    manifest = result.manifest
    size = f"{count_of(manifest.passages, 'passage')} of {count_of(manifest.document_files, 'file')}"
    if result.unchanged:
        return f"{result.folder}: nothing has changed; {size}"
    lines = [
        f"{result.folder}: {done}: {size}",
        f"  files read {result.read:,}, the same as before {result.reused:,}, gone {len(result.removed):,}"
        + (f" ({listed(result.removed, 3)})" if result.removed else ""),
        f"  left out as duplicates: {manifest.equal_chunks:,} equal, {manifest.near_duplicates:,} nearly equal",
    ]
    if manifest.encoder is not None:
        lines.append(
            f"  vectors of {manifest.encoder.dimension} numbers; {count_of(result.encoded, 'passage')} encoded"
        )
    if result.bad:
        lines.append(f"  left out, as they cannot be used: {len(result.bad):,} documents and rows")
    command = f"lorica kb query --subject {shell_word(options.subject)} --kb {shell_word(str(options.out))}"
    return "\n".join([*lines, f'  -> {command} "QUESTION"'])
