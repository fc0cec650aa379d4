"""Small knowledge bases and an encoder that counts what it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from lorica.retrieval.dense_encoder import Vectors

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


class CountingEncoder:
    """Vectors from the letters of a text; `texts` holds all that it encoded."""

    def __init__(self, salt: str = "", dimension: int = 16) -> None:
        self.salt = salt
        self.dimension = dimension
        self.package = ""
        self.digest = "sha256:" + hashlib.sha256(salt.encode()).hexdigest()
        self.texts: list[str] = []

    def unknown_share(self, text: str) -> float:
        """See `DenseEncoder`: it knows no hiragana."""
        return sum("\u3041" <= char <= "\u309f" for char in text) / max(len(text), 1)

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> Vectors:
        """See `DenseEncoder`."""
        self.texts.extend(texts)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                digest = hashlib.sha256((self.salt + word).encode()).digest()
                vectors[row] += np.frombuffer(digest[: self.dimension], dtype=np.uint8).astype(np.float32) - 127.5
            norm = np.linalg.norm(vectors[row])
            vectors[row] = vectors[row] / norm if norm else 1 / np.sqrt(self.dimension)
            advance(1)
        return vectors


@pytest.fixture
def encoder() -> CountingEncoder:
    """A new encoder that counts."""
    return CountingEncoder()


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A folder of four documents, one of them below another folder."""
    folder = tmp_path / "documents"
    (folder / "deeper").mkdir(parents=True)
    (folder / "rivers.md").write_text("# Rivers\n\nThe Danube flows into the Black Sea. It is 2,850 km long.\n")
    (folder / "lakes.txt").write_text("Lake Baikal holds more water than any other lake. It is in Siberia.\n")
    (folder / "deeper" / "seas.html").write_text(
        "<html><head><title>Seas</title><style>p {color: blue}</style></head><body><p>The Black Sea is salt&shy;y."
        "<script>alert('Danube')</script><p>Its deepest point is 2,212 m down.</body></html>"
    )
    (folder / "facts.jsonl").write_text(
        '{"module": "m1", "title": "Water", "text": "Water boils at 100 degrees.", "tags": ["chapter=1", "easy"]}\n'
        '{"module": "m2", "title": "水", "text": "水在一百度时沸腾。长江是亚洲最长的河流。", "tags": {"chapter": 2}}\n'
    )
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; skips where it is absent."""
    if not (SHARED / "xquad").is_dir():
        pytest.skip("the shared data folder is not beside the repository")
    return SHARED
