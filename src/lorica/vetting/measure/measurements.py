"""The records: what was measured of an adapter's behaviour, as plain numbers for people, findings, diagnosis and JSON.

Divergences are in nats. Probabilities of an answer are those of its choices, normalised over them. A value that does
not exist is None.
"""

from __future__ import annotations

import msgspec

from lorica.metrics.bootstrap import Estimate
from lorica.tasks.base import AnswerType

# Labelled rows below which no finding speaks of how right an adapter is.
ENOUGH = 30


class Interval(msgspec.Struct, frozen=True):
    """A value with its confidence interval (None where it is undefined), over n rows."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    @property
    def above(self) -> float:
        """How far the whole interval lies above 0; negative when it does not."""
        return -1.0 if self.low is None else self.low

    @property
    def below(self) -> float:
        """How far the whole interval lies below 0; negative when it does not."""
        return -1.0 if self.high is None else -self.high

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "undefined"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Comparison(msgspec.Struct, frozen=True):
    """Log-probabilities of the gold choices, row by row against others. mean: of the differences, in nats per row;
    positive where the gold is more probable. z: mean over its standard error; 0 when nothing differs."""

    mean: float
    z: float


class Skill(msgspec.Struct, frozen=True):
    """ROC-AUC with its standard error, or accuracy without one; None where it is undefined."""

    value: float | None
    error: float | None

    @property
    def above_chance(self) -> float:
        """Standard errors by which rows are ranked better than by chance; 0 where that is not defined."""
        return 0.0 if self.value is None or not self.error else (self.value - 0.5) / self.error

    def __str__(self) -> str:
        """ ": AUC 0.91 ± 0.03", "" where there is none."""
        return "" if self.value is None or self.error is None else f": AUC {self.value:.2f} ± {self.error:.2f}"


class Divergence(msgspec.Struct, frozen=True):
    """Adapter against base on n prompts.

    kl, kl_most: mean and largest KL(adapter || base) over common words and the rest of the vocabulary as one, or over
    the choices where the engine scores nothing else. changed: share of prompts whose best choice differs.
    largest_change: the largest difference of any log-probability. mass, base_mass: mean probability that the answer is
    one of the choices at all. entropy, base_entropy: mean, of the same words.
    """

    n: int
    kl: float
    kl_most: float
    changed: float | None
    largest_change: float
    mass: float | None
    base_mass: float | None
    entropy: float
    base_entropy: float


class Variation(msgspec.Struct, frozen=True):
    """How answers differ from prompt to prompt.

    std, base_std: standard deviation of a choice's probability over prompts, the mean over choices. odds, base_odds:
    the same of its log-probability against the other choices: it also varies where probabilities are tiny. words,
    base_words: mean KL of a prompt's words from their mean over all prompts. top_share, base_top_share: share of
    prompts with the commonest best choice. saturated, base_saturated: share of prompts whose best choice has more than
    0.999. middle: share where it has at most 0.9. confidence: mean of the best choice's probability. plateaus: share of
    prompts that have one of two values, None with more than two choices.
    """

    std: float | None
    base_std: float | None
    odds: float | None
    base_odds: float | None
    words: float | None
    base_words: float | None
    top_share: float | None
    base_top_share: float | None
    saturated: float | None
    base_saturated: float | None
    middle: float | None
    confidence: float | None
    plateaus: float | None = None


class Examples(msgspec.Struct, frozen=True):
    """What exchanging the positive and negative examples in the prompt does (`rules` with examples, n rows).

    moved, base_moved: mean absolute change of P(Yes). following, base_following: mean change in the direction that the
    examples suggest, with its interval.
    """

    n: int
    style: str
    moved: float
    base_moved: float
    following: Interval | None
    base_following: Interval | None


class InputVariant(msgspec.Struct, frozen=True):
    """What asking rows otherwise does, over the n rows that can be: without a part of the input, or with two parts
    exchanged.

    name: of the variant ("without the post"). moved: mean absolute change of the probability of what was the best
    choice; moved_odds: of its log-odds, which show where probabilities are near 0 or 1. changed: share of rows whose
    best choice is another. failed: rows that are not answered so. With labels: quality: the metric; lost: the metric of
    the rows as they are minus that, paired.
    """

    name: str
    n: int
    moved: float
    moved_odds: float
    changed: float
    failed: int = 0
    quality: Interval | None = None
    lost: Interval | None = None


class FormatResult(msgspec.Struct, frozen=True):
    """One way to ask. template: "" is the session's own. configured: whether it is the session's.

    confidence: mean probability of the best choice. mass: mean probability that the answer is a choice. kl: from the
    base. surer: by how much more probability the best choice has than under the configured format; base_surer: the
    same of the base model, for some formats make every model surer.

    With labels: quality, error: ROC-AUC with its standard error, or accuracy; base_quality: of the base alone. margin:
    the gold choices against those under the configured format; better: the same of the quality. added: against the
    base alone under this one. ranking_z: ROC-AUC against that under the configured format, in standard errors; 0 where
    it is at chance here.
    """

    style: str
    method: str
    template: str
    configured: bool
    n: int
    confidence: float | None
    mass: float | None
    kl: float
    saturated: float | None
    quality: float | None = None
    error: float | None = None
    base_quality: float | None = None
    better: float | None = None
    margin: Comparison | None = None
    added: Comparison | None = None
    ranking_z: float = 0.0
    surer: Interval | None = None
    base_surer: float | None = None

    @property
    def name(self) -> str:
        """ "structured, choice, plain template"."""
        words = [self.style, self.method, f"{self.template} template" if self.template else ""]
        return ", ".join(filter(None, words))


class ScaleResult(msgspec.Struct, frozen=True):
    """The adapter with its update multiplied by `factor`. kl, largest_change: from the base, over common words.
    choices_kl: from the base, over the rows' choices. mass: mean probability that the answer is a choice.

    With labels: loss: mean log-loss of the gold choice. gold: mean log-probability of the gold choices, a ranking's
    after the shift that suits it. quality, error: ROC-AUC with its standard error, or accuracy. gain: the gold choices
    against those of the adapter as it is. over_base: against the base alone. ranking_z: see `FormatResult`.
    """

    factor: float
    kl: float
    largest_change: float
    confidence: float | None
    saturated: float | None
    std: float | None
    changed: float | None
    broken: int = 0
    n: int = 0
    choices_kl: float | None = None
    loss: float | None = None
    gold: float | None = None
    quality: float | None = None
    error: float | None = None
    gain: Comparison | None = None
    over_base: Comparison | None = None
    ranking_z: float = 0.0
    mass: float | None = None


class Labelled(msgspec.Struct, frozen=True):
    """On n rows with gold. metric: its name. shuffled: with the texts of other rows.

    over_base, over_shuffled: paired differences of the metric. gain, loss_gain: the gold choices against the base
    alone, with the shift of `ScaleResult.gold`, and without it on as many rows of each gold choice. shuffled_gain:
    against the texts of other rows. accuracy, accuracy_interval: of the most probable choices; gold_top: the share of
    the commonest gold, which one answer to all rows would get right. top_letter, gold_top_letter: share of the
    commonest letter (`mcq`). tfidf: the same metric of a cross-validated word-count baseline, None where it could not
    be fitted.
    """

    n: int
    metric: str
    adapter: Interval
    base: Interval
    shuffled: Interval
    over_base: Interval
    over_shuffled: Interval
    gain: Comparison
    loss_gain: Comparison
    shuffled_gain: Comparison
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    base_accuracy: float | None = None
    gold_top: float | None = None
    top_letter: float | None = None
    gold_top_letter: float | None = None
    tfidf: float | None = None


class Written(msgspec.Struct, frozen=True):
    """Generated answers against the accepted ones, over n rows: metric -> interval of adapter and of base alone.
    over_base: paired difference of the task's main metric."""

    n: int
    adapter: dict[str, Interval]
    base: dict[str, Interval]
    over_base: Interval


class Elsewhere(msgspec.Struct, frozen=True):
    """What it does to another task: mean KL in nats between the choices' probabilities of adapter and base, on the
    user's rows (here) and on shipped questions of `task` (there)."""

    task: str
    here: float
    there: float

    @property
    def belongs(self) -> bool:
        """Whether it was trained for that task: it moves this one hardly. A scale makes both grow alike.

        There over here, on the zoo's bases: adapters for another task 40 to 470; for this one 0.02 to 4, at a thirtieth
        of their scale 0.03 to 0.4.
        """
        return self.there >= 0.005 and self.there >= 12 * self.here


class Generated(msgspec.Struct, frozen=True):
    """Texts that were generated for n rows under the setting's sampling.

    unparsed_share: rows without a readable answer; fallback_share: those that got the fall-back constant;
    cut_off_share: ended by the length limit. unstable_share: answers that another seed changes, None when nothing is
    sampled. agreement: share of readable answers that equal the most probable choice. written: how right they are, for
    questions with written answers.
    """

    n: int
    unparsed_share: float
    base_unparsed_share: float
    fallback_share: float
    cut_off_share: float
    base_cut_off_share: float
    unstable_share: float | None = None
    agreement: float | None = None
    stages: dict[str, int] = {}
    written: Written | None = None


class Behaviour(msgspec.Struct, frozen=True):
    """All of it. source: whose prompts were asked. foreign: nobody said what the adapter is for.

    errors: prompts that could not be asked, by reason; broken: prompts that the adapter answered with no number;
    base_broken: those the base alone did. writes: whether the engine is of a language model; without that the base is
    no model that could be asked alone, and gives every choice the same probability. left_out: what therefore was not
    measured, in words. Parts that did not apply are None.
    """

    engine: dict[str, str]
    task: str
    answer_type: AnswerType
    style: str
    method: str
    template: str
    source: str
    foreign: bool
    n: int
    labelled_rows: int
    broken: int = 0
    base_broken: int = 0
    outside_vocabulary: int = 0
    writes: bool = True
    left_out: tuple[str, ...] = ()
    errors: dict[str, int] = {}
    divergence: Divergence | None = None
    variation: Variation | None = None
    examples: Examples | None = None
    inputs: tuple[InputVariant, ...] = ()
    formats: tuple[FormatResult, ...] = ()
    scales: tuple[ScaleResult, ...] = ()
    labelled: Labelled | None = None
    elsewhere: Elsewhere | None = None
    probes_quality: Interval | None = None
    generated: Generated | None = None
    seconds: float = 0.0


def interval(estimate: Estimate) -> Interval:
    """An estimate with None for what is undefined."""
    bounds = (estimate.value, estimate.low, estimate.high)
    value, low, high = (None if bound != bound else float(bound) for bound in bounds)
    return Interval(value, low, high, estimate.n)
