"""The plan, by its promises: everything once, within the budget, adapters and prefix nodes together, parents first."""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorica.engines.native.scheduler import (
    ADMISSION_ROWS,
    MIN_BATCH_TOKENS,
    MIN_SAVED_TOKENS,
    Plan,
    ScheduledBatch,
    make_plan,
    schedule_prefills_first,
    suffix_length,
)
from lorica.records import Generate, Request, ScoreChoices

few = settings(max_examples=30, deadline=None)


@st.composite
def request_lists(draw: st.DrawFn) -> list[Request]:
    """Requests whose prompts are put together from a few shared blocks, so that trees of several levels occur."""
    blocks = [tuple(range(start, start + length)) for start, length in ((0, 20), (100, 33), (200, 17), (300, 5))]
    requests: list[Request] = []
    for number in range(draw(st.integers(0, 25))):
        blocks_of_prompt = draw(st.lists(st.sampled_from(blocks), max_size=4))
        suffix = draw(st.lists(st.integers(400, 402), min_size=1, max_size=30))
        prompt = (*(token for block in blocks_of_prompt for token in block), *suffix)
        adapter = draw(st.sampled_from([None, "a", "b"]))
        if draw(st.booleans()):
            choices = draw(st.lists(st.sampled_from([(1,), (2, 3), (4, 5, 6)]), min_size=1, max_size=3))
            requests.append(ScoreChoices(f"r{number}", prompt, tuple(choices), adapter))
        else:
            requests.append(Generate(f"r{number}", prompt, adapter=adapter))
    return requests


def placed(plan: Plan) -> list[int]:
    return [row.request_index for batch in plan.batches for row in batch.rows]


def ancestors(plan: Plan, node: int) -> list[int]:
    """A node and its ancestors, from the root on."""
    chain: list[int] = []
    while node >= 0:
        chain.insert(0, node)
        node = plan.nodes[node].parent
    return chain


@few
@given(request_lists(), request_lists(), st.integers(1, 300), st.booleans())
def test_every_request_is_planned_once_and_read_in_full(
    requests: list[Request], earlier: list[Request], budget: int, share: bool
) -> None:
    cached_prefixes: dict[str | None, list[tuple[int, ...]]] = {}
    for number, request in enumerate(earlier):
        cached_prefixes.setdefault(request.adapter, []).append(request.prompt[: 20 * (1 + number % 3)])
    plan = make_plan(requests, batch_tokens=budget, share_prefixes=share, cached_prefixes=cached_prefixes)

    assert sorted(placed(plan)) == list(range(len(requests)))
    for batch in plan.batches:
        for row in batch.rows:
            request = requests[row.request_index]
            chain = [plan.nodes[index] for index in ancestors(plan, row.node)]
            shared = tuple(token for node in chain for token in node.tokens)
            assert shared == request.prompt[: row.prefix_length]
            assert row.prefix_length < len(request.prompt)
            assert all(node.adapter == request.adapter for node in chain)
            assert [node.start for node in chain] == [
                sum(len(older.tokens) for older in chain[:level]) for level in range(len(chain))
            ]


@few
@given(request_lists(), st.integers(1, 300))
def test_batches_keep_to_the_budget(requests: list[Request], budget: int) -> None:
    plan = make_plan(requests, batch_tokens=budget)
    for batch in plan.batches:
        costs = [suffix_length(requests[row.request_index], row.prefix_length) for row in batch.rows]
        costs += [len(plan.nodes[index].tokens) for index in batch.nodes]
        assert len(costs) == 1 or sum(costs) <= budget
        assert len(costs) >= 1
        if batch.stage == "generate":
            assert len(batch.rows) <= ADMISSION_ROWS


@few
@given(request_lists(), st.integers(1, 300))
def test_adapters_and_nodes_stand_together(requests: list[Request], budget: int) -> None:
    plan = make_plan(requests, batch_tokens=budget)
    for batch in plan.batches:
        adapters = [requests[row.request_index].adapter for row in batch.rows]
        adapters += [plan.nodes[index].adapter for index in batch.nodes]
        runs = [name for name, _ in groupby(adapters)]
        assert len(runs) == len(set(runs))
        chains = [ancestors(plan, row.node) for row in batch.rows]
        for index in {index for chain in chains for index in chain}:
            below = [index in chain for chain in chains]
            assert [inside for inside, _ in groupby(below)].count(True) == 1


@few
@given(request_lists(), st.integers(1, 300))
def test_nodes_are_computed_before_use_and_released_after(requests: list[Request], budget: int) -> None:
    plan = make_plan(requests, batch_tokens=budget)
    held: set[int] = set()
    computed: list[int] = []
    for batch in plan.batches:
        for index in batch.nodes:
            parent = plan.nodes[index].parent
            assert parent == -1 or parent in held
        held.update(batch.nodes)
        computed += batch.nodes
        for row in batch.rows:
            assert held.issuperset(ancestors(plan, row.node))
        assert held.issuperset(batch.release)
        held.difference_update(batch.release)
    assert sorted(computed) == list(range(len(plan.nodes)))
    assert held == set()


@few
@given(request_lists(), st.integers(1, 300))
def test_sharing_never_computes_more_tokens(requests: list[Request], budget: int) -> None:
    shared = make_plan(requests, batch_tokens=budget, share_prefixes=True)
    alone = make_plan(requests, batch_tokens=budget, share_prefixes=False)
    assert alone.nodes == ()
    saved = alone.computed_tokens() - shared.computed_tokens()
    assert saved >= MIN_SAVED_TOKENS * len(shared.nodes)


def test_two_levels_are_found() -> None:
    instruction, rule = tuple(range(40)), tuple(range(100, 130))
    requests = [
        ScoreChoices(f"r{i}", instruction + (rule if i % 2 else ()) + (200 + i,) * (i + 1), ((1,), (2,)))
        for i in range(10)
    ]
    plan = make_plan(requests, batch_tokens=1000)
    assert [(s.parent, s.start, s.tokens) for s in plan.nodes] == [(-1, 0, instruction), (0, 40, rule)]
    assert [batch.stage for batch in plan.batches] == ["prefill", "prefill", "score"]
    assert plan.computed_tokens() == 40 + 30 + sum(range(1, 11))


def test_rows_of_a_node_come_longest_first() -> None:
    requests = [ScoreChoices(f"r{i}", (7,) * 50 + (i + 8,) * (1 + i * 7 % 5), ((1,),)) for i in range(10)]
    plan = make_plan(requests, batch_tokens=1000)
    lengths = [len(requests[index].prompt) for index in placed(plan)]
    assert lengths == sorted(lengths, reverse=True)


def test_equal_prompts_share_all_but_the_last_token() -> None:
    requests = [ScoreChoices(f"r{i}", tuple(range(90)), ((1,), (2,))) for i in range(3)]
    plan = make_plan(requests, batch_tokens=1000)
    assert [len(node.tokens) for node in plan.nodes] == [89]
    assert {row.prefix_length for batch in plan.batches for row in batch.rows} == {89}


def test_a_prefix_is_not_shared_between_adapters() -> None:
    requests = [ScoreChoices(f"r{i}", (*range(90), 90 + i), ((1,),), "ab"[i]) for i in range(2)]
    assert make_plan(requests, batch_tokens=1000).nodes == ()


@pytest.mark.parametrize("changed", ["budget", "sharing", "token", "adapter", "choice"])
def test_the_digest_tells_plans_apart(changed: str) -> None:
    requests: list[Request] = [ScoreChoices(f"r{i}", (*range(90), 90 + i), ((1,),), "a") for i in range(3)]
    before = make_plan(requests, batch_tokens=100)
    assert before.digest() == make_plan(list(requests), batch_tokens=100).digest()
    first = {
        "token": ScoreChoices("r0", (*range(90), 95), ((1,),), "a"),
        "adapter": ScoreChoices("r0", (*range(90), 90), ((1,),), "b"),
        "choice": ScoreChoices("r0", (*range(90), 90), ((2,),), "a"),
    }.get(changed, requests[0])
    after = make_plan(
        [first, *requests[1:]],
        batch_tokens=2 if changed == "budget" else 100,
        share_prefixes=changed != "sharing",
    )
    assert before.digest() != after.digest()


def test_prefills_come_earlier_and_rows_keep_their_order() -> None:
    stages: list[Literal["prefill", "score"]] = ["prefill", "score", "score", "prefill", "score", "prefill", "score"]
    batches = [ScheduledBatch(stage, release=(number,)) for number, stage in enumerate(stages)]
    for ahead, expected in ((1, [0, 3, 1, 2, 5, 4, 6]), (2, [0, 3, 5, 1, 2, 4, 6])):
        assert [batch.release[0] for batch in schedule_prefills_first(batches, ahead=ahead)] == expected
    assert list(schedule_prefills_first(batches, ahead=0)) == batches


def test_batches_of_several_workers_begin_large_and_end_small() -> None:
    requests: list[Request] = [ScoreChoices(f"r{i}", (i, *range(99)), ((1,),)) for i in range(200)]
    plan = make_plan(requests, batch_tokens=6000, workers=2)
    sizes = [
        sum(suffix_length(requests[row.request_index], row.prefix_length) for row in batch.rows)
        for batch in plan.batches
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 3000
    assert sizes[-2] == MIN_BATCH_TOKENS // 100 * 100
    assert sum(sizes) == plan.computed_tokens() == 20_000


def test_prefills_are_divided_among_workers() -> None:
    requests: list[Request] = [ScoreChoices(f"r{i}", (*range(400), i), ((1,),), str(i % 4)) for i in range(80)]
    sizes = {
        workers: [
            sum(len(plan.nodes[index].tokens) for index in batch.nodes)
            for batch in plan.batches
            if batch.stage == "prefill"
        ]
        for workers in (1, 2)
        for plan in [make_plan(requests, batch_tokens=8000, workers=workers)]
    }
    assert sizes == {1: [1600], 2: [400] * 4}


def test_a_single_row_shares_a_cached_prefix() -> None:
    shared = tuple(range(100))
    requests = [Generate("one", (*shared, 500, 501)), Generate("other", (900, *shared), adapter="a")]
    cached_prefixes = {None: [(*shared, 700)], "a": [shared], "nobody": [shared]}
    plan = make_plan(requests, batch_tokens=1000, cached_prefixes=cached_prefixes)
    assert [(node.adapter, node.tokens) for node in plan.nodes] == [(None, shared)]
    assert plan.prefix_tokens(0) == shared
    assert {(row.request_index, row.prefix_length) for batch in plan.batches for row in batch.rows} == {
        (0, 100),
        (1, 0),
    }
    assert make_plan(requests, batch_tokens=1000).nodes == ()
