"""The settings of sampling mean what they mean in transformers; drawing follows the distribution."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from lorica.engines.native.sampler import SequenceSampler, process_logits, sample  # noqa: E402
from lorica.records import Generate, Sampling  # noqa: E402

WIDTH = 50


def theirs(scores: Any, history: list[int], prompt: int, sampling: Sampling, stop: tuple[int, ...]) -> Any:
    """One row [1, V] through transformers' processors, in the order of its `generate`."""
    steps = transformers.LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        steps.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.min_new_tokens and stop:
        steps.append(transformers.MinNewTokensLengthLogitsProcessor(prompt, sampling.min_new_tokens, list(stop)))
    if sampling.do_sample:
        if sampling.temperature != 1.0:
            steps.append(transformers.TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            steps.append(transformers.TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            steps.append(transformers.TopPLogitsWarper(sampling.top_p))
    return steps(torch.tensor([history]), scores)


@pytest.mark.parametrize("drawn", [False, True])
def test_scores_are_adjusted_as_in_transformers(drawn: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    grid = product((0.5, 1.0, 1.7), (1.0, 0.9, 0.3, 0.01), (0, 1, 7, 500), (1.0, 1.3, 0.8), (0, 3))
    for temperature, top_p, top_k, penalty, min_new_tokens in grid:
        sampling = Sampling(9, min_new_tokens, drawn, temperature, top_p, top_k, penalty)
        stop = (4, 9)
        scores = torch.randn(3, WIDTH, generator=generator) * 3
        pickers = [SequenceSampler(Generate(f"r{n}", (1, 2, 2, 3 + n), sampling, stop)) for n in range(3)]
        for n, picker in enumerate(pickers):
            picker.tokens += [10, 11, 11, 12][: n + 1]
        before = scores.clone()
        processed = process_logits(scores, pickers)
        assert torch.equal(scores, before), "the model's scores must stay as they are"
        for n, picker in enumerate(pickers):
            history = [*picker.request.prompt, *picker.tokens]
            expected = theirs(scores[n : n + 1].clone(), history, 4, sampling, stop)
            torch.testing.assert_close(processed[n : n + 1], expected, atol=1e-6, rtol=0)


def test_rows_of_different_settings_are_picked_together_as_alone() -> None:
    scores = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1)) * 2
    requests = [
        Generate("a", (1,), Sampling()),
        Generate("b", (1,), Sampling(do_sample=True, temperature=1.5)),
        Generate("c", (1,), Sampling(repetition_penalty=5.0)),
        Generate("d", (1,), Sampling(do_sample=True, temperature=1.5)),
        Generate("e", (1,), Sampling(do_sample=True, temperature=1.0, top_k=3)),
        Generate("f", (1,), Sampling(min_new_tokens=1), (int(scores[5].argmax()),)),
    ]
    together = sample(scores, [SequenceSampler(request) for request in requests])
    separately = [sample(scores[i : i + 1], [SequenceSampler(request)])[0] for i, request in enumerate(requests)]
    assert together == separately
    assert together[0] == int(scores[0].argmax())
    assert together[5] != int(scores[5].argmax())


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.3, 0.2, 0.0])
    picker = SequenceSampler(Generate("r", (1,), Sampling(do_sample=True, temperature=1.0)))
    for _ in range(4000):
        picker.tokens += sample(probabilities.log()[None, :], [picker])
    counts = Counter(picker.tokens)
    assert set(counts) == {0, 2, 3}
    for token, count in counts.items():
        probability = float(probabilities[token])
        # Five standard errors: the seed is fixed, so this holds or it does not.
        assert abs(count / 4000 - probability) < 5 * math.sqrt(probability * (1 - probability) / 4000)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval_pick_possible_tokens(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    picker = SequenceSampler(Generate("r", (1,), Sampling(do_sample=True, temperature=1.0)))
    monkeypatch.setattr(picker, "draw", lambda: number)
    scores = torch.full((1, WIDTH), -torch.inf)
    scores[0, 7:12] = torch.tensor([0.3, 0.1, 0.7, 0.2, 0.1])
    assert sample(scores, [picker]) == [7 if number == 0.0 else 11]


def test_temperature_zero_is_greedy() -> None:
    scores = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(2))
    sampling = Sampling(do_sample=True, temperature=0.0, top_k=5)
    assert sample(scores, [SequenceSampler(Generate("r", (1,), sampling))]) == [int(scores.argmax())]
