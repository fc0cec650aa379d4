"""An index of one subject, opened for questions: BM25 over terms, cosine over vectors, or both fused by their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from lorica.config.retrieval_section import PassageSearch
from lorica.errors import RetrievalError
from lorica.names import visible
from lorica.retrieval.dense_encoder import DenseEncoder, stamped_encoder
from lorica.retrieval.index_manifest import IndexManifest, index_folder, list_subjects, read_manifest
from lorica.retrieval.passage_store import PassageStore, open_store
from lorica.retrieval.passages import Passage, text_digest

MODES: tuple[PassageSearch, ...] = get_args(PassageSearch)
"""How an index is asked; see `retrieval.search` of the configuration."""

RANK_CONSTANT = 60
"""Fusion by reciprocal ranks: a passage gets 1 / (RANK_CONSTANT + rank) from each list (Cormack et al., 2009)."""

FUSION_DEPTH = 100
"""So many passages of each list are fused, or as many as are asked for."""

MAX_UNKNOWN_SHARE = 0.1
"""Of a question's tokens: beyond it the ranks of its vector are left out where both lists are fused. On XQuAD MiniLM,
which is English, knows all tokens of English paragraphs and lacks 57% of Chinese ones."""

MAX_ENCODED_CHARACTERS = 20_000
"""So much of a question is encoded; all of its terms are looked up."""

_OPEN_TRIES = 20


def subjects(folder: Path | str) -> list[str]:
    """The subjects, as `names.subject_key` writes them, that have an index in a folder."""
    return list_subjects(Path(folder))


class Index:
    """One subject's index. Use it as a context manager, or close it. encoder: what questions are encoded by, to open
    other indexes with; None where there are no vectors to compare them with."""

    def __init__(
        self,
        manifest: IndexManifest,
        store: PassageStore,
        encoder: DenseEncoder | None,
        mode: PassageSearch,
    ) -> None:
        """For `open` only."""
        self.manifest = manifest
        self.mode = mode
        self._store = store
        self.encoder = encoder

    @classmethod
    def open(
        cls,
        folder: Path | str,
        subject: str,
        *,
        mode: PassageSearch = "auto",
        encoder: DenseEncoder | str = "",
    ) -> Index:
        """Open the index of a subject in a folder of indexes, after every digest was found right.

        mode: bm25, dense, fused, or auto: fused where the index has vectors, else bm25. encoder: the folder of the
        encoder that the vectors were made with, `package:NAME`, or one that is open already; where an installed package
        made them, it is found without. Raises RetrievalError, and MissingExtraError where an encoder needs it."""
        kb_folder = Path(folder)
        for tries_left in reversed(range(_OPEN_TRIES)):
            manifest = read_manifest(kb_folder, subject)
            try:
                store = open_store(kb_folder, subject, manifest)
                break
            except FileNotFoundError as error:  # an update replaced it just now, or it was deleted
                if not tries_left:
                    raise RetrievalError(
                        f"{error.args[0]}: is missing, and index.json names it", fix="build the index again"
                    ) from None
        resolved: PassageSearch = ("bm25" if manifest.encoder is None else "fused") if mode == "auto" else mode
        try:
            return cls(manifest, store, _encoder_for(kb_folder, manifest, resolved, encoder), resolved)
        except BaseException:
            store.close()
            raise

    @property
    def subject(self) -> str:
        """The subject's name, as it was given when the index was built."""
        return self.manifest.subject

    @property
    def digest(self) -> str:
        """A digest over all that decides what the index returns."""
        return self.manifest.digest

    @property
    def passage_count(self) -> int:
        """How many passages it holds."""
        return self.manifest.passages

    def query(self, text: str, top_k: int, *, tags: Sequence[str] = ()) -> list[Passage]:
        """The passages nearest to a question, best first, equal scores by id; none for an empty question.

        tags: all of which a passage must have. Raises RetrievalError."""
        if top_k < 1:
            raise RetrievalError(f"top_k is {top_k}; allowed: 1 or more", fix="top_k=5")
        if not text.strip() or not self.passage_count:
            return []
        text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
        tags = [visible(tag) for tag in tags]
        top_k = min(top_k, self.passage_count)
        if self.mode == "fused":
            rankings = [self._store.rank_terms(text, max(top_k, FUSION_DEPTH), tags)]
            if self._is_known(text):
                rankings.append(self._rank_vectors(text, max(top_k, FUSION_DEPTH), tags))
            ranked = fuse_ranks(rankings)
        else:
            rank = self._store.rank_terms if self.mode == "bm25" else self._rank_vectors
            ranked = rank(text, top_k, tags)
        numbers = [number for number, _ in ranked[:top_k]]
        return [
            Passage(
                passage.id, passage.text, passage.source, score, text_digest(passage.text), passage.title, passage.tags
            )
            for passage, (_, score) in zip(self._store.passages(numbers), ranked, strict=False)
        ]

    def tag_counts(self) -> dict[str, int]:
        """Tag -> passages that have it."""
        return self._store.tag_counts()

    def close(self) -> None:
        """Close its files."""
        self._store.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _is_known(self, text: str) -> bool:
        """Whether the encoder knows the language of a question: vectors of other ones find passages at random."""
        assert self.encoder is not None  # `open` saw to it
        return self.encoder.unknown_share(text[:MAX_ENCODED_CHARACTERS]) <= MAX_UNKNOWN_SHARE

    def _rank_vectors(self, text: str, count: int, tags: Sequence[str]) -> list[tuple[int, float]]:
        assert self.encoder is not None  # `open` saw to it
        question = self.encoder.encode([text[:MAX_ENCODED_CHARACTERS]])[0]
        return self._store.rank_vectors(question, count, tags)


def fuse_ranks(rankings: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Reciprocal rank fusion: (number, sum of reciprocal ranks) of all passages of the lists, best first, equal ones by
    number, in the order of ids."""
    sums: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, 1):
            sums[number] = sums.get(number, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(sums.items(), key=lambda entry: (-entry[1], entry[0]))


def _encoder_for(
    folder: Path, manifest: IndexManifest, mode: PassageSearch, encoder: DenseEncoder | str
) -> DenseEncoder | None:
    """The checked encoder that a mode needs. Raises RetrievalError where it is not the one of the vectors."""
    if mode not in MODES:
        raise RetrievalError(f"mode {mode!r}; allowed: {', '.join(MODES)}", fix="mode=auto")
    if mode == "bm25":
        return None
    if manifest.encoder is None:
        raise RetrievalError(
            f"{folder}: the index of {manifest.subject!r} has no vectors, which mode {mode} needs",
            fix="use mode bm25, or build it with --encoder FOLDER",
        )
    return stamped_encoder(index_folder(folder, manifest.subject), manifest.encoder, encoder)
