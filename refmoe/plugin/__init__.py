"""The pytest plugin: collects suites, and tells a run what it was worth.

It sleeps, and imports nothing heavy, until a REFMOE_* variable or a --refmoe option is
given or a test file holds a `refmoe.conformance.Suite`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from refmoe.plugin import settings
from refmoe.plugin.suite import Suite

if TYPE_CHECKING:
    from refmoe.plugin.session import Session

_SESSION = pytest.StashKey["Session"]()
#: Workers of `-n auto` for each GPU: every one holds a CUDA context of its own.
WORKERS_PER_GPU = 4
#: The attribute by which a report brings its records to the controller.
_CARRIED = "refmoe"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    settings.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Check what is given, and load the port before anything is collected.

    Raises UsageError for an unknown REFMOE_* variable, a bad value, a malformed file of
    known failures, a port that cannot be loaded, or none for the conformance tests.
    """
    gpu = getattr(config, "workerinput", {}).get("refmoe_gpu")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    conformance = any("refmoe.conformance" in str(word) for word in config.args)
    if settings.given(config) or conformance:
        session = _session(config)
        if conformance or session.settings.port is not None:
            session.port(None)


def _session(config: pytest.Config) -> Session:
    """The run's session, opened at its first use."""
    if _SESSION not in config.stash:
        import torch

        from refmoe.plugin.session import open_session

        # The cases are small: sharing one among threads costs more than it saves.
        torch.set_num_threads(1)
        session = config.stash[_SESSION] = open_session(settings.read(config))
        config.add_cleanup(session.close)
    return config.stash[_SESSION]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What decides the results: versions, device, arithmetic, profile, seed."""
    if _SESSION not in config.stash:
        return []
    from refmoe.plugin.summary import header

    return header(config.stash[_SESSION])


def pytest_pycollect_makeitem(
    collector: pytest.Collector, name: str, obj: object
) -> list[pytest.Item] | None:
    """The tests of a suite.

    Raises CollectError where the suite names something unknown.
    """
    if not isinstance(obj, Suite):
        return None
    from refmoe.plugin.items import collect

    try:
        return list(collect(collector, name, obj, _session(collector.config)))
    except pytest.UsageError as error:
        raise collector.CollectError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Iterator[Any]:
    """Attach the records of the test to its report, as plain values."""
    report = yield
    if call.when == "call" and _SESSION in item.config.stash:
        from refmoe.plugin.items import PortItem
        from refmoe.plugin.wire import packed

        if isinstance(item, PortItem):
            about = item.run.ports[item.port.name]
            setattr(report, _CARRIED, packed(about, item.records, item.missing))
    return report


class _Controller:
    """The hooks of the process that sees every report."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather the records, whichever worker they come from."""
        carried = getattr(report, _CARRIED, None)
        if carried is None:
            return
        from refmoe.plugin.wire import unpacked

        session, found = _session(self.config), unpacked(carried)
        session.tests += 1
        session.missing += bool(found.missing)
        session.records += found.records
        session.ports.setdefault(found.port.name, found.port)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that executed too little, or whose known failures are gone."""
        if _SESSION not in self.config.stash:
            return
        run = self.config.stash[_SESSION]
        if run.problems() and session.exitstatus in (
            pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED
        ):  # fmt: skip
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        run.files.write(run.run())

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The table, the state of known failures, and what fails the whole run."""
        if _SESSION in self.config.stash:
            from refmoe.plugin.summary import show

            show(self.config.stash[_SESSION], terminalreporter)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """In the controller, or where there are no workers: gather reports."""
    if not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(_Controller(session.config), "refmoe-run")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` with a few workers for each GPU; as ever where there is none."""
    if not settings.given(config):
        return None
    import torch

    gpus = torch.cuda.device_count()
    return min(gpus * WORKERS_PER_GPU, os.cpu_count() or 1) if gpus else None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker one GPU, in turn."""
    if _SESSION not in node.config.stash:
        return
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = listed.split(",") if listed else [str(n) for n in range(gpus)]
        number = int(str(node.gateway.id).removeprefix("gw"))
        node.workerinput["refmoe_gpu"] = names[number % gpus]
