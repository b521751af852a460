"""Guards, graphs and workers on a GPU: each finds what it is there for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refmoe.gallery import entries
from refmoe.loading import port_of
from refmoe.parse import parse
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier
from refmoe.worker.home import Limits
from refmoe.worker.isolated import Isolated

pytestmark = pytest.mark.gpu
PASSED = (Kind.BIT_EQUAL, Kind.WITHIN)
LINE = "omni_route T={} E=64 k=4 seed={}"


@pytest.fixture(scope="module")
def workers() -> Iterator[Isolated]:
    """Workers that find this folder's ports, and soon lose patience."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parent))
    with Isolated(Limits(run=5.0, compile=60.0)) as isolated:
        yield isolated
    patch.undo()


def records(workers: Isolated, name: str, lines: tuple[str, ...]) -> list[Record]:
    """The records of cases that are announced before the first is read."""
    (port,) = workers.load(f"cuda_ports:{name}")
    verifier = Verifier(runner=workers)
    cases = [parse(line) for line in lines]
    for case in cases:
        workers.announce(port, case)
    return [verifier.check(port, case) for case in cases]


def lines(*tokens: int, seed: int = 3) -> tuple[str, ...]:
    return tuple(LINE.format(count, seed) for count in tokens)


def test_cuda_port_that_is_right_passes_on_both_streams(workers: Isolated) -> None:
    found = records(workers, "honest", (*lines(4, 17), *lines(4, 17, seed=4)))
    assert [record.kind for record in found] == 4 * [Kind.BIT_EQUAL]


def test_cuda_port_on_another_stream_reads_what_is_not_yet_written(
    workers: Isolated,
) -> None:
    """Odd seeds launch on a stream of their own, behind a delayed write.

    The first call loads kernels and outlasts the delay.
    """
    even, odd = records(workers, "elsewhere", (*lines(9, seed=4), *lines(9)))
    assert even.kind in PASSED
    assert odd.kind.failed


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("overrunning", Kind.WRONG, "outside logits_x"),
        ("writing", Kind.WRONG, "logits_x"),
        ("out_of_bounds", Kind.CRASHED, "CUDA error"),
        ("endless", Kind.HUNG, "no result within 5 s"),
    ],
)
def test_cuda_fault_is_one_finding(
    workers: Isolated, name: str, kind: Kind, words: str
) -> None:
    """Catches a fault that takes the cases behind it along, or goes unseen."""
    found = records(workers, name, lines(4, 17, 5))
    assert [record.kind in PASSED for record in found] == [True, False, True]
    assert found[1].kind is kind
    assert words in f"{found[1].log} {found[1].judgement}"


def test_cuda_graph_is_replayed_on_other_values(workers: Isolated) -> None:
    captured = tuple(f"{line} law=captured" for line in lines(5, 18))
    for record in records(workers, "honest", captured):
        assert record.kind in PASSED
    assert records(workers, "remembering", captured)[1].kind.failed


def test_cuda_graph_keeps_a_scalar_that_was_read_at_capture() -> None:
    entry = entries("mistake")["scalar_read_at_capture"]
    port = entry.port()
    port.device = "cuda"
    line = "combine T=18 H=96 E=8 k=4 seed=2"
    verifier = Verifier()
    assert verifier.check(port_of(port), parse(line)).kind in PASSED
    assert verifier.check(port_of(port), parse(f"{line} law=captured")).kind.failed
