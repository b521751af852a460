"""Workers: what a port does to its process is one finding, and nothing else is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oracle.models import MODELS
from refmoe.loading import load
from refmoe.parse import parse
from refmoe.port import accepts
from refmoe.verdict import Kind
from refmoe.verify import Record, Verifier
from refmoe.worker.home import Home, Limits
from refmoe.worker.host import Worker
from refmoe.worker.isolated import Isolated
from refmoe.worker.runner import announced

PASSED = (Kind.BIT_EQUAL, Kind.WITHIN)
LINE = "moe T={} H=32 I=32 E=4 k=2 weights=mxfp4 seed={}"


@pytest.fixture(scope="module")
def workers() -> Iterator[Isolated]:
    """Workers that find the faulty ports, with a limit on memory."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parent))
    with Isolated(Limits(memory=4 << 30)) as isolated:
        yield isolated
    patch.undo()


def records(workers: Isolated, name: str, tokens: tuple[int, ...]) -> list[Record]:
    """The port's records, all cases announced before the first is read."""
    (port,) = workers.load(f"faulty_ports:{name}")
    verifier = Verifier(runner=workers)
    cases = [parse(LINE.format(count, 3 + count)) for count in tokens]
    for case in cases:
        workers.announce(port, case)
    return [verifier.check(port, case) for case in cases]


def gone(signalled: Callable[[], None]) -> bool:
    """Whether a process, or a group of them, ends within a minute."""
    for _ in range(600):
        try:
            signalled()
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


ENDS = {
    "segfaults": "the worker was killed by SIGSEGV",
    "aborts": "the worker was killed by SIGABRT",
    "ends": "the worker exited with status 0",
    "kills_itself": "the worker was killed by SIGKILL",
    "kills_the_nursery": "the process that it was forked from was killed",
    "interrupts": "the worker exited with status 1",
    "closes_files": "the worker exited with status 1",
    "writes_everywhere": "the worker sent 7 bytes that are no frame: b'garbage'",
    "forges_an_answer": "the worker sent an answer to request 1073741824 out of turn",
    "leaves": "SystemExit: 0",
    "raises": "RuntimeError: no shared memory left",
    "takes_all_memory": "MemoryError",
    "takes_too_many_elements": "can't allocate memory",
    "breaks_the_gpu": "RuntimeError: CUDA error: an illegal memory access was",
}


@pytest.mark.parametrize("name", ENDS)
def test_worker_that_ends_is_one_finding(workers: Isolated, name: str) -> None:
    """Catches a crash that takes the cases behind it along, or blames another."""
    found = records(workers, name, (4, 17, 5, 6))
    assert [record.kind in PASSED for record in found] == [True, False, True, True]
    assert found[1].kind is Kind.CRASHED
    assert ENDS[name] in found[1].log.splitlines()[-1]
    assert "T=17" in found[1].finding().case


def test_worker_stack_and_output_are_in_the_log(workers: Isolated) -> None:
    """Catches a crash of native code that says nothing of where it happened."""
    log = records(workers, "segfaults", (17,))[0].log
    assert 'faulty_ports.py"' in log
    assert "in _segfaults" in log
    assert "refmoe/worker" not in log
    assert "these are its last words" in records(workers, "ends", (17,))[0].log


def test_worker_that_hangs_is_hung_where_it_stands(workers: Isolated) -> None:
    """A call that had returned before has the deadline of calls, others the first's."""
    impatient = Isolated(Limits(run=1.0), workers.host)
    first, hung, after = records(impatient, "hangs", (4, 17, 5))
    assert (first.kind in PASSED, hung.kind, after.kind in PASSED) == (
        True, Kind.HUNG, True,
    )  # fmt: skip
    assert hung.log.splitlines()[-1] == "no result within 1 s (--deadline)"
    assert "in _hangs" in hung.log
    impatient.homes["faulty_ports"].close()


BAD = {
    "another_shape": "out has shape (16, 32); want (17, 32)",
    "another_type": "out is float64; want bfloat16",
    "another_device": "out is on meta; return it on cpu",
}


@pytest.mark.parametrize("name", BAD)
def test_worker_result_that_breaks_the_contract_is_wrong(
    workers: Isolated, name: str
) -> None:
    before, bad, after = records(workers, name, (4, 17, 5))
    assert (before.kind in PASSED, bad.kind, after.kind in PASSED) == (
        True, Kind.WRONG, True,
    )  # fmt: skip
    assert bad.judgement.verdict.detail == BAD[name]


def test_worker_that_prints_is_no_finding(workers: Isolated, capfd: Any) -> None:
    """Catches a protocol on a stream that a port may print to."""
    assert all(r.kind in PASSED for r in records(workers, "prints", (4, 17, 5)))
    assert capfd.readouterr() == ("", "")


def test_worker_with_a_broken_gpu_is_replaced(workers: Isolated) -> None:
    """Catches findings that are echoes of an earlier one: a dead context stays dead."""
    records(workers, "breaks_the_gpu", (4,))
    home = workers.homes["faulty_ports"]
    assert home.worker is not None
    before = home.worker.pid
    records(workers, "breaks_the_gpu", (17, 5))
    assert home.worker is not None
    assert home.worker.pid != before


def test_worker_takes_the_processes_that_it_started_along(workers: Isolated) -> None:
    records(workers, "leaves_a_process", (17,))
    home = workers.homes["faulty_ports"]
    assert home.worker is not None
    leader = home.worker.pid
    home.worker.end()
    home.worker = None
    # What has ended stays listed until it is collected, which may take a while.
    assert gone(lambda: os.killpg(leader, 0))


def test_worker_of_a_failed_port_is_no_one_elses(workers: Isolated) -> None:
    """Catches a port that patches torch and so fails its neighbour."""
    bad, good = workers.load("faulty_ports:patches_torch", "faulty_ports:honest")
    verifier = Verifier(runner=workers)
    cases = [parse(LINE.format(17, seed)) for seed in range(2)]
    for case in cases:
        workers.announce(bad, case)
        workers.announce(good, case)
    for case in cases:
        assert verifier.check(bad, case).kind is Kind.WRONG
        assert verifier.check(good, case).kind in PASSED


def test_worker_that_builds_other_inputs_is_wrong(workers: Isolated) -> None:
    """Catches a port that makes its own cases easy, and a changed float mode."""
    alone = Isolated(host=workers.host)
    _, then = records(alone, "patches_the_generator", (17, 5))
    alone.homes["faulty_ports"].close()
    assert then.kind is Kind.WRONG
    assert then.judgement.verdict.detail.startswith(
        "in the port's process the case has another "
    )


def test_worker_says_what_a_port_declares(workers: Isolated) -> None:
    """Catches a fact that does not survive the way, or is asked at the wrong time."""
    for name in ("refmoe.gallery.honest:split_k", "refmoe.peers.torch"):
        here, (there,) = load(name), workers.load(name)
        assert (there.name, there.numerics, there.declared, there.device) == (
            here.name, here.numerics, here.declared, here.device,
        )  # fmt: skip
        assert list(there.ops) == list(here.ops)
        assert there.get("version") == here.get("version")
        assert there.get("stable") == here.get("stable")
        for op, function in here.ops.items():
            for keyword in ("taps", "out", "local", "tactic"):
                assert accepts(there.ops[op], keyword) == accepts(function, keyword)
        for layer in list(MODELS.values())[::9]:
            assert there.definition(layer) == here.definition(layer)
        case = parse("grouped_gemm T=4 H=33 I=32 E=4 k=2")
        assert there.unsupported(case) == here.unsupported(case)
        with pytest.raises(RuntimeError, match="lives in a worker"):
            next(iter(there.ops.values()))()


def test_worker_that_dies_of_a_question_is_one_finding(workers: Isolated) -> None:
    (port,) = workers.load("faulty_ports:declaring")
    verifier = Verifier(runner=workers)

    def of(experts: int) -> Record:
        return verifier.check(port, parse(f"moe T=3 H=32 I=32 E={experts} k=2"))

    kinds = {experts: of(experts).kind for experts in (4, 5, 6, 7, 8)}
    assert kinds.pop(4) in PASSED
    assert kinds == {
        5: Kind.CRASHED, 6: Kind.UNSUPPORTED, 7: Kind.CRASHED, 8: Kind.CRASHED,
    }  # fmt: skip
    assert of(6).log == "six experts"
    assert of(7).log.endswith("the worker was killed by SIGABRT")
    assert of(8).log == "LookupError: no declaration"
    other = of(9).judgement.verdict
    assert other.kind is Kind.WRONG
    assert other.detail.startswith("declares(layer) changes hidden from 32 to 64")


def test_worker_that_dies_of_one_tactic_runs_the_others(workers: Isolated) -> None:
    (port,) = workers.load("faulty_ports:tactical")
    case = parse(LINE.format(4, 1))
    tactics = port.tactics(case)
    assert [str(tactic) for tactic in tactics] == ["first", "second", "third"]
    problem = Verifier().problem(case)
    found = [workers.run(port, problem, tactic).status for tactic in tactics]
    assert found == ["ran", "crashed", "ran"]
    record = Verifier(runner=workers).check(port, case)
    assert (record.kind, record.tactic) == (Kind.CRASHED, "second")


def test_worker_verdicts_are_those_of_one_process(workers: Isolated) -> None:
    """Catches what gets lost on the way: taps, ranks, views, types, laws' launches."""
    lines = [
        "moe model=gpt-oss-120b T=5 H=64 I=32 E=8 k=4 seed=2",
        "moe T=5 H=64 I=32 E=8 k=2 memory=strided seed=2",
        "moe T=5 H=64 I=32 E=8 k=2 memory=offset seed=3",
        "experts T=5 H=64 I=32 E=8 k=2 local=1/2 seed=4",
        "route T=9 E=8 k=2 law=token_order seed=5",
        "quantize T=3 H=64 format=nvfp4 seed=6",
        "permute T=0 E=4 k=2 seed=7",
    ]
    for entry in ("split_k", "wide_output"):
        name = f"refmoe.gallery.honest:{entry}"
        here, (there,) = load(name), workers.load(name)
        for line in lines:
            one = Verifier().check(here, parse(line))
            other = Verifier(runner=workers).check(there, parse(line))
            assert (one.kind, one.case, one.log) == (other.kind, other.case, other.log)
            assert one.judgement.results == other.judgement.results
            assert one.kind in PASSED


def test_worker_runs_tensors_that_no_case_describes(workers: Isolated) -> None:
    """A problem made by hand is sent with its strides."""
    (port,) = workers.load("faulty_ports:honest")
    problem = Verifier().problem(parse(LINE.format(4, 1)))
    x = problem.inputs["x"].new_zeros(4, 64)[:, ::2]
    outcome = workers.run(port, problem.but(inputs={**problem.inputs, "x": x}))
    assert outcome.status == "ran"
    assert not bool(outcome.outputs["out"].any())


@pytest.mark.parametrize("seed", range(4))
def test_worker_killed_at_random_moments_loses_nothing(
    workers: Isolated, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most one finding for each kill; every other case has its own verdict."""
    draw, killed = random.Random(seed), set[int]()
    receive = Worker.receive

    def interrupted(self: Worker, until: float) -> Any:
        if self.pid not in killed and draw.random() < 0.05:
            os.kill(self.pid, signal.SIGKILL)
            killed.add(self.pid)
        return receive(self, until)

    plain, torch = workers.load("refmoe.gallery.honest:split_k", "refmoe.peers.torch")
    lines = [(plain, f"route T={n} E=8 k=2 seed={n}") for n in range(1, 25)]
    lines += [(torch, f"grouped_gemm T={n} H=32 I=32 E=4 k=2") for n in range(1, 9)]
    plan = [(port, "", parse(line)) for port, line in lines]
    monkeypatch.setattr(Worker, "receive", interrupted)
    verifier, crashed = Verifier(runner=workers), []
    for port, _, case in announced(plan, workers):
        record = verifier.check(port, case)
        assert record.case == str(case)
        if record.kind is Kind.CRASHED:
            crashed.append(record)
        else:
            assert record.kind in PASSED
    assert killed
    assert len(crashed) <= len(killed)
    assert all(record.log.endswith("SIGKILL") for record in crashed)


LOADS = [
    ("no_such_port", ImportError, "there is no module 'no_such_port'"),
    ("json", ValueError, "port 'json' offers no op"),
    ("faulty_ports:nothing", ValueError, "'nothing' is not in"),
]


@pytest.mark.parametrize("target, kind, text", LOADS)
def test_worker_port_that_cannot_be_loaded_says_so_as_in_one_process(
    workers: Isolated, target: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        workers.load(target)


def test_worker_port_that_ends_while_it_is_imported(
    workers: Isolated, tmp_path: Path
) -> None:
    file = tmp_path / "suicidal.py"
    file.write_text("import os\nos._exit(0)\n")
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with (
            Isolated() as others,
            pytest.raises(
                ImportError,
                match=r"'suicidal' cannot be imported: .* exited with status 0",
            ),
        ):
            others.load("suicidal")
    finally:
        os.chdir(before)


def test_worker_first_call_of_an_op_may_take_longer(workers: Isolated) -> None:
    (port,) = workers.load("faulty_ports:honest")
    case = parse(LINE.format(4, 9))
    workers.announce(port, case)
    home: Home = workers.homes["faulty_ports"]
    ticket = home.queue[0]
    assert home.worker is not None
    home.worker.called.clear()
    ticket.step = ("0", "call")
    assert home._limit(ticket, home.worker) == (180.0, "--compile-deadline")
    home.worker.called.add((port.name, "moe", "0"))
    assert home._limit(ticket, home.worker) == (30.0, "--deadline")
    ticket.step = None
    assert Verifier(runner=workers).check(port, case).kind in PASSED


def test_workers_leave_no_process_behind() -> None:
    with Isolated() as isolated:
        isolated.load("refmoe.peers.torch")
        (home,) = isolated.homes.values()
        assert home.worker is not None
        pids = [home.worker.pid]
        assert isolated.host.process is not None
        pids.append(isolated.host.process.pid)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_nursery_ends_quietly_where_the_other_end_is_gone() -> None:
    """Catches a traceback under the message of a command that ends at once."""
    code = (
        "import socket; from refmoe.worker.nursery import Nursery\n"
        "ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "theirs.close(); Nursery(ours).serve()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
