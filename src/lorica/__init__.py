"""Lorica: trains LoRA adapters, checks that an adapter is what it claims to be, and answers files of rows with many
adapters at once.

The names of `__all__` are the whole public surface; everything else may change. docs/python.md explains them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lorica.version import __version__

if TYPE_CHECKING:
    from lorica.commands.adapt_result import AdaptResult as AdaptResult
    from lorica.commands.api import RecordPipeline as RecordPipeline
    from lorica.commands.api import check as check
    from lorica.commands.api import diagnose as diagnose
    from lorica.commands.api import evaluate as evaluate
    from lorica.commands.api import frontier as frontier
    from lorica.commands.api import infer as infer
    from lorica.commands.api import list_runs as list_runs
    from lorica.commands.api import load_pipeline as load_pipeline
    from lorica.commands.api import score as score
    from lorica.commands.api import train as train
    from lorica.commands.api_evidence import average as average
    from lorica.commands.api_evidence import blend as blend
    from lorica.commands.api_evidence import calibrate as calibrate
    from lorica.commands.api_evidence import compare as compare
    from lorica.commands.api_evidence import doctor as doctor
    from lorica.commands.api_evidence import judge as judge
    from lorica.commands.api_evidence import measure_retrieval as measure_retrieval
    from lorica.commands.api_training import adapt as adapt
    from lorica.commands.api_training import tune as tune
    from lorica.commands.api_training import tune_attempts as tune_attempts
    from lorica.commands.average import AverageResult as AverageResult
    from lorica.commands.calibrations import CalibrationResult as CalibrationResult
    from lorica.commands.check_result import AdapterCheck as AdapterCheck
    from lorica.commands.check_result import CheckResult as CheckResult
    from lorica.commands.doctor import DoctorReport as DoctorReport
    from lorica.commands.ensemble_report import EnsembleResult as EnsembleResult
    from lorica.commands.frontier import FrontierResult as FrontierResult
    from lorica.commands.infer import InferResult as InferResult
    from lorica.commands.score_result import ScoreResult as ScoreResult
    from lorica.commands.train_jobs import TrainingRun as TrainingRun
    from lorica.commands.tune_result import AttemptsResult as AttemptsResult
    from lorica.commands.tune_result import TuneResult as TuneResult
    from lorica.errors import AdapterError as AdapterError
    from lorica.errors import ConfigError as ConfigError
    from lorica.errors import DataError as DataError
    from lorica.errors import EngineError as EngineError
    from lorica.errors import LoricaError as LoricaError
    from lorica.errors import MissingExtraError as MissingExtraError
    from lorica.errors import ModelError as ModelError
    from lorica.errors import PromptError as PromptError
    from lorica.errors import ResumeError as ResumeError
    from lorica.errors import TrainingError as TrainingError
    from lorica.errors import UsageError as UsageError
    from lorica.judging.endpoint import EndpointSettings as EndpointSettings
    from lorica.judging.judge_result import JudgeResult as JudgeResult
    from lorica.metrics.bootstrap import Estimate as Estimate
    from lorica.pipeline.compare import FileComparison as FileComparison
    from lorica.pipeline.compare import PairComparison as PairComparison
    from lorica.pipeline.evaluate import Evaluation as Evaluation
    from lorica.pipeline.retrieval_gain import RetrievalGain as RetrievalGain
    from lorica.records import Answer as Answer
    from lorica.runs.run_record import RunMetric as RunMetric
    from lorica.runs.run_record import RunRecord as RunRecord
    from lorica.runs.stored_run import StoredRun as StoredRun
    from lorica.runs.stored_run import load_run as load_run
    from lorica.training.types import TrainResult as TrainResult
    from lorica.vetting.diagnosis import Diagnosis as Diagnosis
    from lorica.vetting.findings import Finding as Finding
    from lorica.vetting.findings import Verdict as Verdict

# Module -> what of it is public; imported when it is first asked for, so that `import lorica` loads nothing heavy.
_PUBLIC = {
    "lorica.commands.api": (
        "train",
        "infer",
        "evaluate",
        "score",
        "frontier",
        "check",
        "diagnose",
        "list_runs",
        "load_pipeline",
        "RecordPipeline",
    ),
    "lorica.commands.adapt_result": ("AdaptResult",),
    "lorica.commands.api_training": ("adapt", "tune", "tune_attempts"),
    "lorica.commands.api_evidence": (
        *("average", "calibrate", "compare", "doctor", "blend", "judge", "measure_retrieval"),
    ),
    "lorica.commands.average": ("AverageResult",),
    "lorica.commands.calibrations": ("CalibrationResult",),
    "lorica.commands.doctor": ("DoctorReport",),
    "lorica.commands.ensemble_report": ("EnsembleResult",),
    "lorica.pipeline.compare": ("FileComparison", "PairComparison"),
    "lorica.commands.check_result": ("CheckResult", "AdapterCheck"),
    "lorica.commands.frontier": ("FrontierResult",),
    "lorica.commands.infer": ("InferResult",),
    "lorica.commands.score_result": ("ScoreResult",),
    "lorica.commands.train_jobs": ("TrainingRun",),
    "lorica.commands.tune_result": ("TuneResult", "AttemptsResult"),
    "lorica.judging.endpoint": ("EndpointSettings",),
    "lorica.judging.judge_result": ("JudgeResult",),
    "lorica.metrics.bootstrap": ("Estimate",),
    "lorica.pipeline.evaluate": ("Evaluation",),
    "lorica.pipeline.retrieval_gain": ("RetrievalGain",),
    "lorica.records": ("Answer",),
    "lorica.runs.run_record": ("RunMetric", "RunRecord"),
    "lorica.runs.stored_run": ("StoredRun", "load_run"),
    "lorica.training.types": ("TrainResult",),
    "lorica.vetting.diagnosis": ("Diagnosis",),
    "lorica.vetting.findings": ("Finding", "Verdict"),
    "lorica.errors": (
        *("LoricaError", "AdapterError", "ConfigError", "DataError", "EngineError", "MissingExtraError", "ModelError"),
        *("PromptError", "ResumeError", "TrainingError", "UsageError"),
    ),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'lorica' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
