"""A finding as lines of text: bits, the first stage, how to replay it."""

from __future__ import annotations

import math
import shlex

from refmoe.regimes.regime import TORCH
from refmoe.report.bits import hexadecimal, interval
from refmoe.verdict import Finding, Kind, Verdict

#: Most ulps that a miss is counted in; beyond, the values say enough.
_COUNTED = 10_000
#: Lines of a traceback that are shown.
_TRACEBACK = 12


def lines(finding: Finding) -> list[str]:
    """The finding, one line each for the verdict, the first stage and the replay."""
    head = "DEVIATION" if finding.deviation else finding.verdict.kind
    found = [f"{head} {finding.op}[{finding.port}]  {described(finding.verdict)}"]
    if finding.first is not None and finding.first.tap != finding.verdict.tap:
        found.append(f"  first divergence: {described(finding.first)}")
    if finding.tactic:
        found.append(f"  tactic: {finding.tactic}")
    if finding.cause:
        found.append(f"  cause: {finding.cause}")
    if finding.log and finding.verdict.detail == finding.log:
        found[0] = f"{head} {finding.op}[{finding.port}]  {_sentence(finding.log)}"
        found += [f"    {line}" for line in finding.log.splitlines()[-_TRACEBACK:]]
    if finding.first_seen and finding.first_seen != finding.case:
        found.append(f"  first seen: {finding.first_seen}")
    if finding.command:
        # It does not name the case.
        found.append(f"  case: {finding.case}")
    found.append(f"  reproduce: {replay(finding)}")
    return found


def replay(finding: Finding) -> str:
    """The command that judges the finding's case again."""
    if finding.command:
        return finding.command
    return f"refmoe repro {shlex.quote(finding.case)} {finding.port}"


def described(verdict: Verdict) -> str:
    """What came, what was wanted, how far apart they are.

    >>> from refmoe.verdict import Kind
    >>> described(Verdict(Kind.WRONG, "ids", (3, 1), 5, 2, 2, dtype="int64"))
    'ids[3,1] = 5  want 2'
    """
    parts = []
    if verdict.index:
        place = f"{verdict.tap}[{','.join(map(str, verdict.index))}]"
        parts.append(f"{place} = {_value(verdict.got, verdict.dtype)}")
    elif verdict.tap:
        parts.append(verdict.tap)
    low, high = verdict.low, verdict.high
    if low is not None and high is not None:
        if isinstance(low, int) or isinstance(high, int):
            parts.append(f"want {low}")
        elif low == high or math.isnan(low):
            parts.append(f"want {_value(low, verdict.dtype)} exactly{_missed(verdict)}")
        else:
            parts.append(f"want {interval(low, high, verdict.dtype)}")
    ratio = verdict.ratio
    if ratio is not None and 0 < ratio < math.inf and low != high:
        parts.append(f"error {ratio:.3g}x bound")
    if verdict.kind is Kind.SUSPECT and verdict.probability is not None:
        parts.append(f"a right kernel's is, with probability {verdict.probability:.2g}")
    if verdict.detail:
        parts.append(verdict.detail)
    return "  ".join(parts)


def _missed(verdict: Verdict) -> str:
    """How many ulps an exact value was missed by."""
    if verdict.ratio is None or not 0 < verdict.ratio < math.inf:
        return ""
    ulps = verdict.ratio / 2
    if ulps > _COUNTED:
        return ""
    return f", missed by {ulps:.3g} ulp{'' if ulps == 1 else 's'}"


def _value(value: float | int | None, dtype: str) -> str:
    if value is None or isinstance(value, int):
        return str(value)
    bits = hexadecimal(value, dtype)
    if dtype in TORCH and not bits.startswith("0x"):
        return f"{bits} (no {dtype})"
    return f"{bits} ({value:.7g})"


def _sentence(log: str) -> str:
    """The line of a traceback that names the exception; else the first line."""
    lines_ = log.splitlines()
    frames = [n for n, line in enumerate(lines_) if line.startswith('  File "')]
    after = lines_[frames[-1] :] if frames else lines_
    return next((line for line in after if not line.startswith(" ")), log)
