"""A run as JUnit XML, which every CI server reads."""

from __future__ import annotations

from xml.etree import ElementTree as xml

from refmoe.report.certificate import reason
from refmoe.report.markup import printable
from refmoe.report.run import Run
from refmoe.report.text import described, lines
from refmoe.verify import Record


def junit(run: Run) -> str:
    """One suite for each port, one test for each case.

    Known failures and cases that were not executed are skipped, with their reason;
    what is a finding and no failure stands in the output of a test that passed.
    """
    root = xml.Element("testsuites", name="refmoe", time=f"{run.seconds:.3f}")
    for port in run.ports:
        own = [record for record in run.records if record.port == port.name]
        suite = xml.SubElement(root, "testsuite", name=printable(port.name))
        properties = xml.SubElement(suite, "properties")
        for name, value in (
            ("numerics", port.numerics), ("device", port.machine),
            ("seed", str(run.seed)),
        ):  # fmt: skip
            xml.SubElement(properties, "property", name=name, value=printable(value))
        for record in own:
            _add(suite, run, record)
        counts = {
            "tests": len(own),
            "failures": len(suite.findall("testcase/failure")),
            "errors": 0,
            "skipped": len(suite.findall("testcase/skipped")),
            "time": f"{sum(record.seconds for record in own):.3f}",
        }
        for name, count in counts.items():
            suite.set(name, str(count))
    xml.indent(root)
    return xml.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add(suite: xml.Element, run: Run, record: Record) -> None:
    case = xml.SubElement(
        suite, "testcase", classname=printable(f"{record.port}.{record.cell.op}"),
        name=printable(record.case), time=f"{record.seconds:.4f}",
    )  # fmt: skip
    text = printable("\n".join(lines(record.finding())))
    entry = run.excuse(record)
    if entry is not None:
        xml.SubElement(case, "skipped", message=printable(f"expected: {entry.reason}"))
    elif record.kind.failed:
        message = printable(described(record.judgement.verdict).partition("\n")[0])
        failure = xml.SubElement(
            case, "failure", type=str(record.kind), message=message
        )
        failure.text = text
    elif not record.kind.executed:
        message = printable(f"{record.kind}: {reason(record)}")
        xml.SubElement(case, "skipped", message=message)
    elif record.kind.reported:
        xml.SubElement(case, "system-out").text = text
