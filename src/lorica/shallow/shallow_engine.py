"""The engines `tfidf` and `centroids`: prompts of bytes in, log-probabilities of the choices out, through the same
interface as language models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

from lorica.adapters.member import Member
from lorica.adapters.shallow_folder import ShallowFolder, ShallowKind
from lorica.calibration.calibration_maps import PROBABILITY_FLOOR
from lorica.engines.base import (
    EngineInfo,
    EngineSettings,
    OnDone,
    OnOutputs,
    check_adapters,
    failed,
    find_request_problem,
    is_new,
    unknown_adapter,
)
from lorica.engines.batch_timer import BatchTimer
from lorica.engines.in_order import answer_in_order
from lorica.errors import AdapterError
from lorica.models.base_folder import BaseFolder
from lorica.records import Output, Request, ScoreChoices
from lorica.retrieval.dense_encoder import DenseEncoder, TransformerEncoder, check_encoder
from lorica.runs.machine import installed_versions
from lorica.shallow.centroids import load_centroids
from lorica.shallow.row_texts import VOCABULARY_SIZE, RowTexts, read_byte_segments, read_segments
from lorica.shallow.shallow_model import RowAnswer, ShallowModel
from lorica.shallow.shallow_tfidf import load_tfidf

LoadModel = Callable[[ShallowFolder], ShallowModel]

_PACKAGES = ("scikit-learn", "numpy", "torch")  # whose versions decide the answers
_BATCH_ROWS = 64
_UNLIMITED = 1 << 62  # positions


class ShallowEngine:
    """Shallow models of one kind by name. The base alone knows nothing: it gives every choice the same probability."""

    def __init__(self, kind: ShallowKind, load_model: LoadModel) -> None:
        self._kind = kind
        self._load_model = load_model
        self._models: dict[str, tuple[ShallowFolder, ShallowModel]] = {}
        self._timer = BatchTimer()

    @property
    def info(self) -> EngineInfo:
        """An output depends on its request alone."""
        return EngineInfo(self._kind, batch_invariant=(ScoreChoices,), versions=installed_versions(_PACKAGES))

    def add_adapter(self, name: str, adapter: Member) -> None:
        """Load a model; the same one again changes nothing. Raises AdapterError for one of another kind, and for one
        that does not belong to the encoder; EngineError for a taken name."""
        if not isinstance(adapter, ShallowFolder) or adapter.config.kind != self._kind:
            raise AdapterError(
                f"{adapter.path}: is not a model that engine={self._kind} answers with",
                fix="name the model that it was trained with: model=tfidf, model=centroids, or its base; of a list of "
                "several kinds choose one with adapters.use=NAME",
            )
        if is_new(name, adapter, {known_name: folder.digest for known_name, (folder, _) in self._models.items()}):
            self._models[name] = adapter, self._load_model(adapter)

    def remove_adapter(self, name: str) -> None:
        """Forget a model. Raises EngineError for one that was never added."""
        if self._models.pop(name, None) is None:
            raise unknown_adapter(name, self._models)

    def set_timer(self, timer: BatchTimer) -> None:
        """See `TimedEngine`."""
        self._timer = timer

    def clear_prefix_cache(self) -> None:
        """There is none."""

    def run(
        self, requests: Sequence[Request], on_done: OnDone | None = None, on_outputs: OnOutputs | None = None
    ) -> list[Output]:
        """Answer all requests in their order, batch by batch; see `Engine.run`."""
        check_adapters(requests, self._models)
        return answer_in_order(
            requests,
            self._answer_batch,
            batch_rows=_BATCH_ROWS,
            timer=self._timer,
            on_done=on_done,
            on_outputs=on_outputs,
        )

    def _answer_batch(self, batch: Sequence[Request]) -> list[Output]:
        return [
            output
            for adapter, group in groupby(batch, key=lambda request: request.adapter)
            for output in self._answer(adapter, list(group))
        ]

    def _answer(self, adapter: str | None, requests: Sequence[Request]) -> list[Output]:
        if adapter is None:
            return [_without_model(request) for request in requests]
        folder, model = self._models[adapter]
        texts: list[RowTexts | str] = [_texts_of(request, folder) for request in requests]
        answers = iter(model.answer([row for row in texts if isinstance(row, RowTexts)]))
        return [
            _output(request, row if isinstance(row, str) else next(answers))
            for request, row in zip(requests, texts, strict=True)
        ]


def _without_model(request: Request) -> Output:
    problem = _problem(request)
    if problem or not isinstance(request, ScoreChoices):
        return failed(request, problem)
    return Output(id=request.id, logprobs=(-math.log(len(request.choices)),) * len(request.choices))


def _problem(request: Request) -> str:
    if not isinstance(request, ScoreChoices):
        return "this engine scores choices and writes no text"
    return find_request_problem(request, vocab_size=VOCABULARY_SIZE, max_positions=_UNLIMITED)


def _texts_of(request: Request, folder: ShallowFolder) -> RowTexts | str:
    """What the request asks, or why this model cannot answer it."""
    problem = _problem(request)
    if problem or not isinstance(request, ScoreChoices):
        return problem
    segments = read_byte_segments(request.prompt)
    if not segments:
        return "the prompt has no segments"
    texts = read_segments(segments, folder.config.answer_type)
    choices = len(texts.options) if folder.config.answer_type == "option" else 2
    if len(request.choices) != choices:
        return f"{len(request.choices)} choices are asked for, and the row has {choices}"
    return texts


def _output(request: Request, answer: RowAnswer) -> Output:
    if isinstance(answer, str):
        return failed(request, answer)
    logprobs = tuple(math.log(max(probability, PROBABILITY_FLOOR)) for probability in answer)
    return Output(id=request.id, logprobs=logprobs)


def shallow_engine(encoder: DenseEncoder | None) -> ShallowEngine:
    """The engine of centroids on this encoder's embeddings, or of TF-IDF, which has none."""
    if encoder is None:
        return ShallowEngine("tfidf", load_tfidf)
    return ShallowEngine("centroids", lambda folder: load_centroids(folder, encoder))


def load_tfidf_engine(base: BaseFolder, settings: EngineSettings) -> ShallowEngine:
    """The factory of `tfidf` for `load_engine`; it has no base."""
    return shallow_engine(None)


def load_centroids_engine(base: BaseFolder, settings: EngineSettings) -> ShallowEngine:
    """The factory of `centroids` for `load_engine`. Raises RetrievalError for a base that is no encoder."""
    encoder = TransformerEncoder(base.path)
    check_encoder(encoder, str(base.path))
    return shallow_engine(encoder)
