"""The admissible set against every assignment of keys on a grid."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracle.numerics import Ties
from oracle.routing.admissible import Admissible
from oracle.routing.contest import Contest
from oracle.routing.order import descending, first_equal, sortable
from oracle.routing.outcomes import outcomes

Sets = set[tuple[int, ...]]
Interval = tuple[int, int]


def contest(
    intervals: list[Interval], labels: list[int], places: int, ties: Ties
) -> Contest:
    """One row of keys centre +- radius; entrants with one label share the first's."""
    centre = torch.tensor([[c for c, _ in intervals]], dtype=torch.float64)
    radius = torch.tensor([[r for _, r in intervals]], dtype=torch.float64)
    return Contest.of(centre, radius, torch.tensor([labels]), places, ties)


def outcomes_by_enumeration(entry: Contest) -> Sets:
    """Winners under every assignment of half integers within the intervals.

    Only where ends are integers: half steps then realise every order of the keys that
    decides who wins.
    """
    low, high = entry.low[0].tolist(), entry.high[0].tolist()
    twins = entry.twins[0].tolist()
    owners = sorted(set(twins))
    choices = []
    for owner in owners:
        e = twins.index(owner)
        steps = int(2 * (high[e] - low[e])) if math.isfinite(low[e]) else 0
        choices.append([low[e] + step / 2 for step in range(steps + 1)])
    found: Sets = set()
    for keys in itertools.product(*choices):
        key = dict(zip(owners, keys, strict=True))
        entrants = range(len(twins))
        if entry.ties == "highest":
            order = sorted(entrants, key=lambda e: (-key[twins[e]], -e))
        else:
            order = sorted(entrants, key=lambda e: (-key[twins[e]], e))
        if entry.ties == "any":
            cut = key[twins[order[entry.places - 1]]]
            sure = [e for e in entrants if key[twins[e]] > cut]
            tied = [e for e in entrants if key[twins[e]] == cut]
            for rest in itertools.combinations(tied, entry.places - len(sure)):
                found.add(tuple(sorted([*sure, *rest])))
        else:
            found.add(tuple(sorted(order[: entry.places])))
    return found


def assert_same(entry: Contest, expected: Sets) -> None:
    count = entry.value.shape[1]
    listed = outcomes(entry, 0, 1 << 20)
    assert listed is not None
    assert {tuple(members) for members in listed} == expected
    assert len(listed) == len(expected)
    for members in itertools.combinations(range(count), entry.places):
        chosen = torch.zeros(1, count, dtype=torch.bool)
        chosen[0, list(members)] = True
        assert bool(entry.allows(chosen)) == (members in expected), members
    assert bool(entry.certain) == (len(expected) == 1)
    assert tuple(sorted(entry.winners[0].tolist())) in expected


INTERVALS = st.lists(
    st.tuples(st.integers(-2, 3), st.integers(0, 1)), min_size=1, max_size=5
)
TIES = st.sampled_from(["lowest", "highest", "any"])


@given(INTERVALS, st.data(), TIES)
def test_contest_equals_enumeration(
    intervals: list[Interval], data: st.DataObject, ties: Ties
) -> None:
    count = len(intervals)
    labels = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    entry = contest(intervals, labels, data.draw(st.integers(1, count)), ties)
    assert_same(entry, outcomes_by_enumeration(entry))


@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 1)), min_size=6, max_size=6),
    st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 1)), min_size=3, max_size=3),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
    st.sampled_from([0.0, -math.inf]),
    TIES,
)
def test_admissible_groups_equal_enumeration(
    intervals: list[Interval],
    groups: list[Interval],
    labels: list[int],
    fill: float,
    ties: Ties,
) -> None:
    experts = contest(intervals, labels, 2, ties)
    of_groups = contest(groups, [0, 1, 2], 2, ties)
    admissible = Admissible.of_groups(experts, of_groups, fill)
    expected: Sets = set()
    for kept in outcomes_by_enumeration(of_groups):
        stays = torch.tensor([[e // 2 in kept for e in range(6)]])
        expected |= outcomes_by_enumeration(experts.masked(stays, fill))
    listed = admissible.selections(0)
    assert listed is not None
    assert listed[0].tolist() == admissible.ids[0].tolist()
    assert {tuple(sorted(row)) for row in listed.tolist()} == expected
    for members in itertools.permutations(range(6), 2):
        ids = torch.tensor([members])
        assert bool(admissible.contains(ids)) == (tuple(sorted(members)) in expected)
    if len(expected) > 1:
        assert bool(admissible.ambiguous)


def test_contest_outcomes_stop_at_the_limit() -> None:
    entry = contest([(0, 1)] * 12, list(range(12)), 6, "lowest")
    assert outcomes(entry, 0, 923) is None
    found = outcomes(entry, 0, 924)
    assert found is not None
    assert len(found) == math.comb(12, 6)


def test_contest_outcomes_of_many_near_ties_are_too_many() -> None:
    entry = contest([(0, 1)] * 1024, list(range(1024)), 512, "lowest")
    assert outcomes(entry, 0, 64) is None


def test_contest_equal_inputs_tie_whatever_the_radius() -> None:
    entry = contest([(0, 1)] * 40, [0] * 40, 20, "lowest")
    assert bool(entry.certain)
    assert outcomes(entry, 0, 1) == [list(range(20))]
    freed = contest([(0, 1)] * 40, [0] * 40, 20, "any")
    assert not bool(freed.certain)
    assert outcomes(freed, 0, 64) is None


@pytest.mark.parametrize(
    ("ties", "winners"), [("lowest", [1, 2]), ("highest", [3, 2]), ("any", [1, 2])]
)
def test_contest_winners_follow_the_tie_rule(ties: Ties, winners: list[int]) -> None:
    entry = contest([(0, 0), (5, 0), (5, 0), (5, 0)], [0, 1, 2, 3], 2, ties)
    assert entry.winners.tolist() == [winners]


def test_order_is_total_with_nan_last() -> None:
    values = torch.tensor(
        [math.nan, -math.inf, -0.0, 0.0, 5e-324, math.inf, -1.0, -math.nan],
        dtype=torch.float64,
    )
    assert descending(values).tolist() == [5, 4, 2, 3, 6, 1, 0, 7]
    assert sortable(values)[2] == sortable(values)[3]


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=2))
def test_sortable_compares_as_floats_do(pair: list[float]) -> None:
    a, b = sortable(torch.tensor(pair, dtype=torch.float64)).tolist()
    assert (a < b) == (pair[0] < pair[1])
    assert (a == b) == (pair[0] == pair[1])


def test_first_equal_finds_first_index() -> None:
    labels = torch.randint(0, 7, (50, 40), generator=torch.Generator().manual_seed(0))
    expected = [[row.index(label) for label in row] for row in labels.tolist()]
    assert first_equal(labels).tolist() == expected
