"""Machine code of the kernels, as they are and with a mutant in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from fuzz.mutator.mutants import Mutant
from refmoe.kernels import cache, catalogue, emulator
from refmoe.kernels.source import expand, replaced

Kernel = tuple[str, str]

#: What mutants call and the emulator need not have.
_ROUGH = """
#include <fenv.h>
namespace rough {
template <class F> float toward_zero(F compute) {
  fesetround(FE_TOWARDZERO);
  volatile float result = compute();
  fesetround(FE_TONEAREST);
  return result;
}
inline float fsqrt(float a) {
  const float near = sqrtf(a);
  return double(near) * near > a ? nextafterf(near, 0) : near;
}
inline float fmaf(float a, float b, float c) {
  const float near = ::fmaf(a, b, c);
  const double left = fma(double(a), b, double(c) - near);
  return near * left < 0 ? nextafterf(near, 0) : near;
}
inline float expf(float a) { return exp2f(a * 1.442695041f); }
#define ROUGH(name, sign) inline float name(float a, float b) { \\
  volatile float x = a, y = b; return toward_zero([&] { return x sign y; }); }
ROUGH(fadd, +) ROUGH(fsub, -) ROUGH(fmul, *) ROUGH(fdiv, /)
}  // namespace rough
#define __fadd_rz rough::fadd
#define __fsub_rz rough::fsub
#define __fmul_rz rough::fmul
#define __fdiv_rz rough::fdiv
#define __fsqrt_rz rough::fsqrt
#define __fmaf_rz rough::fmaf
#define __expf rough::expf
"""


def users(file: str) -> tuple[str, ...]:
    """The .cu files whose text has `file` in it."""
    found = re.compile(rf'^#line 1 "{re.escape(file)}"$', re.MULTILINE)
    return tuple(name for name in catalogue.instances() if found.search(expand(name)))


def listed(files: Iterable[str]) -> list[Kernel]:
    """Every instance of the catalogue in these files, the files in turns."""
    return in_turns([(f, e) for f in files for e in catalogue.instances()[f]])


def in_turns(kernels: Iterable[Kernel]) -> list[Kernel]:
    """The kernels in an order in which their files take turns."""
    turn: dict[str, int] = {}
    numbered = []
    for file, expression in kernels:
        turn[file] = turn.get(file, 0) + 1
        numbered.append((turn[file], file, expression))
    return [(file, expression) for _, file, expression in sorted(numbered)]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it every kernel is compiled by itself, into `folder`."""
    own = patch.dict(os.environ, {"REFMOE_CACHE_DIR": str(folder)})
    with own, patch.object(catalogue, "instances", dict):
        yield


@dataclass(slots=True)
class Build:
    """The kernels with a mutant in one file: which of them it changes.

    `emulated` builds for the emulator too; what that cannot build is `beyond` it.
    """

    mutant: Mutant
    text: str
    target: str
    emulated: bool = False
    known: dict[Kernel, bool] = field(default_factory=dict)
    beyond: set[Kernel] = field(default_factory=set)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the file has the mutant's text."""
        with ExitStack() as stack:
            changed = self.mutant.applied(self.text)
            stack.enter_context(replaced({self.mutant.file: changed}))
            if self.emulated:
                room = Path(emulator.__file__).parent
                whole = (room / "cuda.hpp").read_text() + _ROUGH
                stack.enter_context(replaced({"cuda.hpp": whole}))
            yield

    def changes(self, kernel: Kernel) -> bool:
        """Whether the mutant changes a kernel's machine code.

        Raises CompileError if it does not compile.
        """
        if kernel not in self.known:
            file, expression = kernel
            with replaced({self.mutant.file: self.text}):
                _, plain = cache.fetch(file, (expression,), self.target)
            with self.applied():
                _, image = cache.fetch(file, (expression,), self.target)
                self.known[kernel] = image.code != plain.code
                if self.known[kernel] and self.emulated:
                    try:
                        emulator.build(file, (expression,))
                    except RuntimeError:
                        self.beyond.add(kernel)
        return self.known[kernel]
