"""Calibrated answers: the probabilities of an answer through the calibration of the adapter that gave it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from lorica.calibration.calibration_maps import CalibrationMap, method_name, two_choices
from lorica.records import Answer


def calibrate_answer(answer: Answer, choice_names: Sequence[str], calibration_map: CalibrationMap) -> Answer:
    """The answer with calibrated probabilities, beside which the raw ones are kept.

    choice_names: what answers call the row's choices; where `score` answers, the one for label 1 first. With a score
    the answer becomes the likelier of the two. An answer without a probability of the model's stays as it is.
    """
    if answer.stage in ("fallback", "invalid"):
        return answer
    method = method_name(calibration_map)
    if answer.score is not None:
        score = float(calibration_map.apply(two_choices(np.asarray([answer.score])))[0, 1])
        pair = dict(zip(choice_names, (score, 1 - score), strict=True))
        return msgspec.structs.replace(
            answer,
            answer=choice_names[0 if score >= 0.5 else 1],
            score=score,
            scores=None if answer.scores is None else pair,
            raw_score=answer.score,
            raw_scores=answer.scores,
            calibration=method,
        )
    if answer.scores is None:
        return answer
    probabilities = calibration_map.apply(np.asarray([list(answer.scores.values())]))[0]
    return msgspec.structs.replace(
        answer,
        scores=dict(zip(answer.scores, map(float, probabilities), strict=True)),
        raw_scores=answer.scores,
        calibration=method,
    )
