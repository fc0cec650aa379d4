"""What to try next, and what mattered: optuna, as pure functions of the trials so far.

The first suggestions are spread over the space (a Latin hypercube: every value of a setting has its turn); then a
sampler learns from the trials that ended, seeded by the study's seed and the trial's number. So what is suggested is
the same in one session and in many, whatever was killed when.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import random
import warnings
from collections.abc import Sequence
from typing import Any

from lorica.errors import MissingExtraError
from lorica.tuning.dimensions import Dimension, Settings, combinations, decode, encode
from lorica.tuning.trial_store import Trial

_SPREAD_TRIALS = 6  # before the sampler models anything
_FEWEST_MODELLED = 4  # finished and pruned trials from which the sampler learns
_REDRAWS = 8  # of settings that were tried before
_FEWEST_IMPORTANT = 6  # finished trials from which importances are estimated


def load_optuna() -> Any:
    """The package. Raises MissingExtraError without it, or without scikit-learn, which importances take."""
    for package, module in (("optuna", "optuna"), ("scikit-learn", "sklearn")):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(package, extra="tune", needed_for="lorica tune")
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def suggest(dimensions: Sequence[Dimension], trials: Sequence[Trial], *, seed: int, maximize: bool) -> Settings | None:
    """The settings of the trial that follows `trials`, which were not tried yet; None where there are no others.

    trials: those that ended, in their order. maximize: whether a higher value is better. The same arguments give the
    same settings.
    """
    tried = [trial.settings for trial in trials]
    suggested = sum(trial.origin == "suggested" for trial in trials)
    if suggested < _SPREAD_TRIALS and (settings := _spread(dimensions, seed)[suggested]) not in tried:
        return settings
    for redraw in range(_REDRAWS):
        settings = _draw(dimensions, trials, _seed(seed, len(trials), redraw), maximize)
        if settings not in tried:
            return settings
    untried = combinations(dimensions)
    return settings if untried is None else next((candidate for candidate in untried if candidate not in tried), None)


def importances(dimensions: Sequence[Dimension], trials: Sequence[Trial]) -> dict[str, float]:
    """Key -> its share of the variance of the values (fANOVA, Hutter et al. 2014), the largest first, of the keys that
    all trials set; {} where too few trials finished, or all with one value."""
    optuna = load_optuna()
    finished = [trial for trial in trials if trial.value is not None and encode(dimensions, trial.settings)]
    if len(finished) < _FEWEST_IMPORTANT or len({trial.value for trial in finished}) < 2:
        return {}
    study = _study(optuna, dimensions, finished, seed=0, maximize=True)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: float(share) for key, share in shares.items()}


def _spread(dimensions: Sequence[Dimension], seed: int) -> list[Settings]:
    """The first suggestions. A setting of k values has each of them in every k-th one of them, and one of a range lies
    in another part of the range in each."""
    columns: dict[str, list[Any]] = {}
    for dimension in dimensions:
        chance = random.Random(_seed(seed, dimension.key))
        parts = chance.sample(range(_SPREAD_TRIALS), _SPREAD_TRIALS)
        columns[dimension.key] = [dimension.at((part + chance.random()) / _SPREAD_TRIALS) for part in parts]
    return [
        decode(dimensions, {key: drawn[number] for key, drawn in columns.items()}) for number in range(_SPREAD_TRIALS)
    ]


def _draw(dimensions: Sequence[Dimension], trials: Sequence[Trial], seed: int, maximize: bool) -> Settings:
    optuna = load_optuna()
    study = _study(optuna, dimensions, trials, seed=seed, maximize=maximize)
    return decode(dimensions, study.ask(fixed_distributions=_distributions(optuna, dimensions)).params)


def _study(optuna: Any, dimensions: Sequence[Dimension], trials: Sequence[Trial], *, seed: int, maximize: bool) -> Any:
    """A study in memory that knows the trials."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this sampler's joint model is experimental
        # In groups: settings that only some trials have are modelled on these.
        is_grouped = any(dimension.needs[0] for dimension in dimensions)
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_FEWEST_MODELLED, multivariate=True, group=is_grouped
        )
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    states = {"finished": optuna.trial.TrialState.COMPLETE, "pruned": optuna.trial.TrialState.PRUNED}
    for trial in trials:
        params = encode(dimensions, trial.settings)
        if trial.state in states and params is not None:
            sign = -1 if maximize else 1  # of a loss, where the study's values are better the higher they are
            losses = {round(100 * share): sign * loss for share, loss in trial.curve}
            study.add_trial(
                optuna.trial.create_trial(
                    state=states[trial.state],
                    params=params,
                    distributions=_distributions(
                        optuna, [dimension for dimension in dimensions if dimension.key in params]
                    ),
                    value=trial.value,
                    intermediate_values=losses if trial.state == "pruned" else {},
                )
            )
    return study


def _distributions(optuna: Any, dimensions: Sequence[Dimension]) -> dict[str, Any]:
    return {dimension.key: _distribution(optuna.distributions, dimension) for dimension in dimensions}


def _distribution(kinds: Any, dimension: Dimension) -> Any:
    """Numbers to choose from are drawn by their place in the order, others as names without one."""
    if dimension.values:
        count = len(dimension.values)
        return (
            kinds.IntDistribution(0, count - 1)
            if dimension.is_numeric
            else kinds.CategoricalDistribution(list(range(count)))
        )
    if dimension.integers:
        return kinds.IntDistribution(round(dimension.low), round(dimension.high), log=dimension.logarithmic)
    return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.logarithmic)


def _seed(*purpose: object) -> int:
    """A seed for one purpose of a study."""
    digest = hashlib.blake2b("\0".join(map(str, purpose)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big")
