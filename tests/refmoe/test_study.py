"""Failures are studied: a smaller case, and a cause or the word that there is none."""

from __future__ import annotations

from refmoe.case import Case
from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.port import Port
from refmoe.ranks import TILE
from refmoe.study import UNEXPLAINED, studied
from refmoe.verdict import Finding, Kind
from refmoe.verify import Verifier, findings

CASES = (
    "experts model=gpt-oss-120b T=4 H=32 I=32 E=4 k=2 regime=randn seed=0",
    "experts model=gpt-oss-120b T=5 H=32 I=32 E=4 k=4 regime=heavy load=hot seed=1",
    "experts model=mixtral-8x7b T=4 H=32 I=32 E=4 k=2 regime=randn seed=2",
)


def found(port: Port, seconds: float = 60.0) -> list[Finding]:
    verifier = Verifier()
    records = [verifier.check(port, parse(line)) for line in CASES]
    return findings(studied(records, [port], verifier, seconds=seconds))


def smallest_of(port: Port, line: str, seconds: float = 60.0) -> Case:
    """The smaller case that a study of one failure ends at."""
    verifier = Verifier()
    record = verifier.check(port, parse(line))
    (record,) = studied([record], [port], verifier, seconds=seconds)
    assert record.study is not None
    return parse(record.study.smallest.case)


def gallery(name: str) -> Port:
    return port_of(entries("mistake")[name].port(), name)


def test_study_names_the_cause_and_a_smaller_case() -> None:
    first = found(gallery("no_clamp"))[0]
    assert first.cause.startswith("the limit is left out (no_clamp: explains ")
    assert first.first_seen == CASES[0]
    assert parse(first.case).T == 1
    assert first.verdict.kind is Kind.WRONG


def test_study_says_where_nothing_explains_it() -> None:
    """Catches a diagnosis that always has an answer."""

    class Odd:
        device = "cpu"

        def experts(self, x, ids, weights, params, layer):  # type: ignore[no-untyped-def]
            out = (
                entries("honest")["sequential"]
                .port()
                .experts(x, ids, weights, params, layer)
            )
            return out * 0.75 + 1.0

    first = found(port_of(Odd(), "odd"))[0]
    assert first.cause == UNEXPLAINED


def test_study_passes_over_smaller_cases_that_cannot_be_built() -> None:
    """Catches a study that ends a run: I=1 does not divide among three ranks."""
    plain = entries("honest")["sequential"].port()

    class Padded:
        device = "cpu"

        def experts(self, x, ids, weights, params, layer):  # type: ignore[no-untyped-def]
            out = plain.experts(x, ids, weights, params, layer)
            return out * 3 + 1.0 if layer.intermediate == TILE else out

    port = port_of(Padded(), "padded")
    line = "experts T=2 H=8 I=6 E=3 k=1 regime=randn shard=1/3 seed=3"
    smallest = smallest_of(port, line)
    assert (smallest.T, smallest.shard) == (1, "1/3")


def test_study_never_cuts_a_block_in_making_a_case_smaller() -> None:
    """Catches a study that ends a run: H=2 is no whole block of MXFP4."""
    line = "experts model=gpt-oss-120b T=2 H=64 I=32 E=2 k=1 regime=randn seed=0"
    port = gallery("no_clamp")
    smallest = smallest_of(port, line)
    assert (smallest.T, smallest.H, smallest.I) == (1, 32, 32)


def test_study_keeps_the_model_of_a_port_that_has_no_other() -> None:
    """Catches a smaller case that is wrong since its layer is no longer the model's."""
    plain = gallery("no_renormalisation").ops["route"]
    named = {"route": plain, "device": "cpu", "supports": {"models": ("mixtral-8x7b",)}}
    port = port_of(named, "mine")
    line = "route model=mixtral-8x7b T=3 E=8 k=2 regime=saturated seed=0"
    smallest = smallest_of(port, line, seconds=20.0)
    assert (smallest.T, smallest.model) == (1, "mixtral-8x7b")


def test_study_stops_when_its_time_is_up() -> None:
    first = found(gallery("no_clamp"), seconds=0.0)[0]
    assert first.case == first.first_seen == CASES[0]


def test_study_leaves_what_is_right_alone() -> None:
    assert found(port_of(entries("honest")["sequential"].port(), "plain")) == []
