"""The knowledge base of the configuration, opened and checked before any row is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorica.commands.arguments import inform, warn
from lorica.config.retrieval_section import ALL_SUBJECTS, RetrievalConfig
from lorica.errors import ConfigError
from lorica.names import did_you_mean, listed, subject_key
from lorica.pipeline.retrieve import Retriever
from lorica.pipeline.training_passages import TrainingPassages
from lorica.retrieval.dense_encoder import DenseEncoder
from lorica.retrieval.index import Index, subjects
from lorica.retrieval.index_manifest import read_manifest


def build_retriever(section: RetrievalConfig) -> Retriever | None:
    """The indexes of the subjects that are switched on; None where no subject is.

    Raises ConfigError for switches without a knowledge base and for a subject without an index, RetrievalError for an
    index that is damaged or was built otherwise.
    """
    if not section.dir:
        if any(section.enabled.values()):
            fix = "retrieval.dir=FOLDER, which `lorica kb build` makes, or leave retrieval.enabled out"
            raise ConfigError("retrieval.enabled is set, and retrieval.dir is not", fix=fix)
        return None
    if not any(section.enabled.values()):
        inform(
            f"retrieval.dir={section.dir}, and no subject is switched on: rows get no passages "
            "(retrieval.enabled.SUBJECT=true; `lorica kb test` proposes which)"
        )
        return None
    return open_indexes(section, section.enabled)


def index_digests(section: RetrievalConfig) -> dict[str, str]:
    """Subject -> digest of its index; {} without a knowledge base. Raises RetrievalError for a damaged one."""
    folder = Path(section.dir)
    return {subject: read_manifest(folder, subject).digest for subject in subjects(folder)} if section.dir else {}


def training_passages(section: RetrievalConfig, seed: int) -> TrainingPassages | None:
    """What stands before training rows; None where they get no passages. Raises what `build_retriever` raises, and
    ConfigError where no subject is switched on."""
    if not section.train:
        return None
    if not section.dir or not any(section.enabled.values()):
        fix = "retrieval.dir=FOLDER retrieval.enabled=true, or leave retrieval.train out"
        raise ConfigError("retrieval.train is set, and no subject is switched on", fix=fix)
    return TrainingPassages(open_indexes(section, section.enabled), section.distractors, seed)


def open_indexes(section: RetrievalConfig, switches: Mapping[str, bool]) -> Retriever:
    """As `build_retriever`, with these switches."""
    folder = Path(section.dir)
    if not folder.is_dir():
        raise ConfigError(f"retrieval.dir={folder} is no folder", fix="`lorica kb build --out FOLDER ...` makes one")
    indexed = subjects(folder)
    if not indexed:
        fix = f"`lorica kb build --subject SUBJECT --out {folder} DOCUMENTS`"
        raise ConfigError(f"retrieval.dir={folder} holds no index", fix=fix)
    switch_of = {subject_key(subject): switch for subject, switch in switches.items()}
    chosen = [subject for subject in indexed if switch_of.get(subject, switch_of.get(ALL_SUBJECTS, False))]
    for subject, switch in switches.items():
        if switch and subject_key(subject) not in (ALL_SUBJECTS, *indexed):
            raise ConfigError(
                f"retrieval.enabled.{subject}=true, and retrieval.dir={folder} has no index of it",
                fix=did_you_mean(
                    subject, indexed, key=subject_key, then=f"there are: {listed(indexed, 20)}", form="{}"
                ),
            )
    indexes: dict[str, Index] = {}
    encoders: dict[str, DenseEncoder] = {}  # digest -> encoder, each loaded once for all subjects
    for subject in chosen:
        stamp = read_manifest(folder, subject).encoder
        encoder = section.encoder if stamp is None else encoders.get(stamp.digest, section.encoder)
        index = indexes[subject] = Index.open(folder, subject, mode=section.search, encoder=encoder)
        if index.encoder is not None:
            encoders[index.encoder.digest] = index.encoder
    empty = [subject for subject, index in indexes.items() if not index.passage_count]
    if empty:
        warn(f"the index of {listed(empty, 5)} holds no passage: its questions get none")
    return Retriever(indexes, top_k=section.top_k, min_score=section.min_score, max_tokens=section.max_tokens)
