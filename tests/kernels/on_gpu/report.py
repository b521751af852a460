"""Named checks that cannot stop each other, and what is printed of them."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from oracle.trace import Tap

Check = tuple[str, Callable[[], object]]
#: Failures that are printed in full, and lines of each.
_SHOWN, _LINES = 12, 6


@dataclass(frozen=True, slots=True)
class Result:
    section: str
    name: str
    passed: bool
    seconds: float
    detail: str = ""


@dataclass(slots=True)
class Report:
    """Results by section, numbers by name."""

    results: list[Result] = field(default_factory=list)
    numbers: dict[str, object] = field(default_factory=dict)

    def run(self, section: str, checks: Callable[[], Iterable[Check]]) -> None:
        """Run every check of a section; an exception fails that check alone."""
        iterator = self._iterate(section, checks)
        for name, check in iterator:
            start = time.perf_counter()
            detail, passed = "", True
            try:
                check()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
            except Exception:
                detail, passed = traceback.format_exc(limit=-3), False
            seconds = time.perf_counter() - start
            self.results.append(Result(section, name, passed, seconds, detail))

    def _iterate(
        self, section: str, checks: Callable[[], Iterable[Check]]
    ) -> Iterator[Check]:
        """The checks; what breaks while they are listed is a failure of its own."""
        try:
            yield from checks()
        except Exception:
            detail = traceback.format_exc(limit=-3)
            self.results.append(Result(section, "(listing)", False, 0.0, detail))

    def print(self) -> None:
        """A line per section, then the first failures, then the numbers."""
        passed, failed = Counter[str](), Counter[str]()
        seconds: dict[str, float] = {}
        for result in self.results:
            (passed if result.passed else failed)[result.section] += 1
            own = seconds.get(result.section, 0.0)
            seconds[result.section] = own + result.seconds
        for section, spent in seconds.items():
            print(f"{section:<28} passed {passed[section]:>4}  failed "
                  f"{failed[section]:>3}  {spent:6.1f} s")  # fmt: skip
        for result in [r for r in self.results if not r.passed][:_SHOWN]:
            print(f"\nFAILED {result.section}: {result.name}")
            print("\n".join(result.detail.strip().splitlines()[-_LINES:]))
        for name, value in self.numbers.items():
            print(f"{name:<52} {value}")

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        results = [asdict(result) for result in self.results]
        path.write_text(
            json.dumps({"results": results, "numbers": self.numbers}, indent=1)
        )

    @property
    def clean(self) -> bool:
        return all(result.passed for result in self.results)


def equal(got: torch.Tensor, want: torch.Tensor, name: str = "value") -> None:
    """Raise unless both are equal bit for bit, NaN to NaN."""
    if got.dtype != want.dtype or got.shape != want.shape:
        raise AssertionError(
            f"{name}: {got.dtype}{tuple(got.shape)} for {want.dtype}{tuple(want.shape)}"
        )
    differs = got != want
    if got.is_floating_point():
        differs &= ~(got.isnan() & want.isnan())
    _raise(name, differs, got, want)


def inside(got: torch.Tensor, tap: Tap, name: str = "value") -> None:
    """Raise unless every element lies within the tap's worst bound."""
    value = tap.value
    off = (got.double() - value).abs()
    room = torch.zeros_like(off) if tap.worst is None else tap.worst
    right = (off <= room) | (got.double() == value) | (got.isnan() & value.isnan())
    _raise(name, ~right, got, value)


def _raise(
    name: str, wrong: torch.Tensor, got: torch.Tensor, want: torch.Tensor
) -> None:
    count = int(wrong.sum())
    if count:
        index = tuple(int(i) for i in wrong.nonzero()[0])
        raise AssertionError(
            f"{name}: {count} of {wrong.numel()} wrong, first at {index}: "
            f"{got[index].item()} for {want[index].item()}"
        )
