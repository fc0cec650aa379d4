"""The text of a PDF by pypdf (extra `kb`); text only: a scan holds none, and an encrypted file shows none."""

from __future__ import annotations

from pathlib import Path

from lorica.retrieval.clean_text import UnreadableError, join_hyphenated

MAX_PAGES = 5_000


def read_pdf(path: Path) -> tuple[str, str]:
    """(title, text) of a PDF, pages as paragraphs. Raises UnreadableError, and ImportError without pypdf."""
    with path.open("rb") as stream:
        if b"%PDF-" not in stream.read(1024):
            raise UnreadableError("the suffix says PDF, the content is none", "name the file what it is")
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("it is encrypted with a password", "save it without one, e.g.: qpdf --decrypt")
        page_count = len(reader.pages)
        if page_count > MAX_PAGES:
            raise UnreadableError(f"it has {page_count:,} pages; allowed: {MAX_PAGES:,}", "divide it")
        pages = [page.extract_text() for page in reader.pages]
        title = str(getattr(reader.metadata, "title", None) or "").strip()
    except (PyPdfError, NotImplementedError) as error:
        raise UnreadableError(f"it is damaged ({str(error)[:200]})", "open it and save it again") from error
    text = join_hyphenated("\n\n".join(pages))
    if not text.strip():
        raise UnreadableError(
            f"none of its {page_count:,} pages holds text: it is a scan or a drawing",
            "recognise its text first, e.g.: ocrmypdf",
        )
    return title, text
