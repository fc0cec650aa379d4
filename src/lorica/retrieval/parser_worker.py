"""The process behind `parse_documents`: requests in, texts out, a JSON object a line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lorica.retrieval.clean_text import UnreadableError
from lorica.retrieval.html_text import read_html
from lorica.retrieval.pdf_text import read_pdf


def serve() -> None:
    """Answer requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_memory(int(request["memory"]))
        reply = json.dumps(_answer(Path(request["path"]), request["format"]))
        replies.write(reply.encode() + b"\n")
        replies.flush()


def _answer(path: Path, document_format: str) -> dict[str, Any]:
    try:
        title, text = read_html(path) if document_format == "html" else read_pdf(path)
    except UnreadableError as error:
        return {"error": error.message, "fix": error.fix, "line": error.line}
    except ImportError as error:
        return {"missing": error.name or "pypdf"}
    except MemoryError:
        return {"error": "parsing it takes more memory than is allowed", "fix": "save its text in a .txt file"}
    except Exception as error:  # a parser meets what its authors never did
        message = f"it cannot be parsed ({type(error).__name__}: {str(error)[:200]})"
        return {"error": message, "fix": "open it and save it again, or save its text in a .txt file"}
    return {"title": title, "text": text}


def _limit_memory(byte_count: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (byte_count, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    serve()
