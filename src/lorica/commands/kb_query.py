"""`lorica kb query` and `lorica kb info`: asking an index, and what indexes there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lorica.commands.arguments import as_base, as_path, emit, parser
from lorica.errors import DataError, RetrievalError, UsageError
from lorica.reports.page import ReportTable
from lorica.reports.text_table import plain_table
from lorica.retrieval.index import MODES, Index, subjects
from lorica.retrieval.passage_store import store_of
from lorica.retrieval.passages import Passage

_QUERY_EXAMPLES = """  lorica kb query --subject algebra --kb kb "How is a quadratic equation solved?"
  lorica kb query --subject algebra --kb kb --top-k 3 --mode bm25 --tag chapter=2 --json "completing the square"
  lorica kb query --subject algebra --kb kb --file question.txt"""
_INFO_EXAMPLES = """  lorica kb info --kb kb
  lorica kb info --kb kb --subject algebra --json"""


def run_query(arguments: Sequence[str]) -> int:
    """Ask an index and print its passages."""
    command = parser(
        "kb query",
        "The passages of a subject's index that are nearest to a question, best first: by their terms (BM25), by\n"
        "meaning (vectors of the encoder that it was built with), or by both lists fused (sums of reciprocal ranks).\n"
        "The score is that of the mode: it ranks the passages of one question, and says nothing across questions.",
        _QUERY_EXAMPLES,
        overrides=False,
    )
    command.add_argument("question", nargs="?", default="", help="any text; nothing in it is syntax")
    command.add_argument("--file", type=as_path, help="a file that holds the question")
    command.add_argument("--subject", required=True, help="whose index is asked")
    command.add_argument("--kb", required=True, type=as_path, metavar="DIR", help="the folder of indexes")
    command.add_argument("--top-k", type=int, default=5, help="passages (%(default)s)")
    command.add_argument("--mode", choices=MODES, default="auto", help="auto: fused with vectors, else bm25")
    command.add_argument("--encoder", type=as_base, default="", metavar="FOLDER", help="the encoder of its vectors")
    command.add_argument("--tag", action="append", default=[], metavar="TAG", help="only passages that have this tag")
    options = command.parse_args(list(arguments))
    question = options.question if options.file is None else _read_question(options.file)
    if not question.strip() or (options.file is not None and options.question):
        raise UsageError("lorica kb query: one question, on the command line or as --file", fix="see --help")
    with Index.open(options.kb, options.subject, mode=options.mode, encoder=options.encoder) as index:
        passages = index.query(question, options.top_k, tags=options.tag)
        unknown_tags = sorted(set(options.tag) - set(index.tag_counts())) if options.tag else []
        result = {"subject": index.subject, "index": index.digest, "mode": index.mode, "passages": passages}
    emit(result, as_json=options.json, text=_passages_text(passages, unknown_tags))
    return 0


def run_info(arguments: Sequence[str]) -> int:
    """Say which subjects have an index, or what one was built with."""
    command = parser(
        "kb info",
        "Which subjects have an index, and what each was built with; every file of them is checked against its digest.",
        _INFO_EXAMPLES,
        overrides=False,
    )
    command.add_argument("--kb", required=True, type=as_path, metavar="DIR", help="the folder of indexes")
    command.add_argument("--subject", default="", help="only this one")
    options = command.parse_args(list(arguments))
    if not options.kb.is_dir():
        raise DataError("there is no such folder of indexes", path=options.kb, fix="check the path")
    entries = [_entry(options.kb, name) for name in ([options.subject] if options.subject else subjects(options.kb))]
    rows = tuple(
        (
            entry["subject"],
            entry.get("passages"),
            entry.get("files"),
            _vectors_text(entry),
            entry.get("store"),
            entry.get("digest", "cannot be used")[:19],
        )
        for entry in entries
    )
    table = ReportTable(("subject", "passages", "files", "vectors", "store", "digest"), rows)
    text = plain_table(table) if entries else f"{options.kb}: no index"
    problems = [f"{entry['subject']}: {entry['problem']}" for entry in entries if "problem" in entry]
    emit({"kb": str(options.kb), "indexes": entries}, as_json=options.json, text="\n".join([text, *problems]))
    return RetrievalError.exit_code if problems else 0


def _vectors_text(entry: dict[str, Any]) -> str | None:
    if "digest" not in entry:
        return None
    return "none" if entry["encoder"] is None else f"of {entry['encoder'].dimension} numbers"


def _entry(folder: Path, name: str) -> dict[str, Any]:
    try:
        with Index.open(folder, name, mode="bm25") as index:
            return index.manifest.facts() | {"store": store_of(index.manifest), "tags": index.tag_counts()}
    except RetrievalError as error:
        return {"subject": name, "problem": str(error)}


def _read_question(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # editors write byte order marks
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the question cannot be read ({error})", path=path, fix="give a file of UTF-8 text") from error


def _passages_text(passages: Sequence[Passage], unknown_tags: Sequence[str]) -> str:
    if not passages:
        hint = f"; no passage has the tag {unknown_tags[0]!r}" if unknown_tags else ""
        return f"no passage has a term of the question{hint}"
    blocks = []
    for rank, passage in enumerate(passages, 1):
        title = f" · {passage.title}" if passage.title else ""
        tags = f" · {', '.join(passage.tags)}" if passage.tags else ""
        blocks.append(
            f"{rank}. score {passage.score:.4g} · {passage.id} · {passage.source}{title}{tags}\n{passage.text}"
        )
    return "\n\n".join(blocks)
