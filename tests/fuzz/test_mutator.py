"""The mutator: tokens, each operator on a few lines, names and samples."""

from __future__ import annotations

import pytest

from fuzz.mutator.mutants import Mutant, files, mutants, sample
from fuzz.mutator.operators import OPERATORS
from fuzz.mutator.tokens import Source, tokens

KERNEL = """
template <class T, int N>
__global__ void total(const T* x, float* y, i64 count, i64 rows) {
  const i64 i = i64(blockIdx.x) * 32 + threadIdx.x;
  if (i >= count) return;
  float sum = 0.0f;
  for (int n = 0; n < N; ++n) sum += load<T, 1>(x + i * rows).at[n];
  sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, 16));
  __syncthreads();
  if (threadIdx.x % 32 == 0) atomicMax(&y[i], i > 1 && rows ? sum : 0.5f);
  for (i64 c = i; c < rows; c += 32) {
    if (c == 7) continue;
    y[c] = 0.0f;
  }
}
struct Place {
  i32 row;
};
"""

#: What each operator makes of that kernel, one line of each.
EXPECTED = {
    "drop barrier": "__syncthreads();  ->  ;",
    "weaker barrier": "__syncthreads();  ->  __syncwarp();",
    "drop atomic": "atomicMax(&y[i], i > 1 && rows ? sum : 0.5f)  ->  "
    "*(&y[i]) = i > 1 && rows ? sum : 0.5f",
    "shuffle distance": "kAllLanes, sum, 16)  ->  kAllLanes, sum, (16) + 1)",
    "warp mask": "kAllLanes  ->  0x0000FFFFu",
    "drop collective": "__shfl_xor_sync(kAllLanes, sum, 16)  ->  (sum)",
    "drop check": "if (i >= count) return;  ->  if (false) return;",
    "skip branch": "if (threadIdx.x % 32 == 0)  ->  if (false)",
    "negate condition": "if (c == 7)  ->  if (!(c == 7))",
    "swap branches": "sum : 0.5f  ->  0.5f : (sum)",
    "break for continue": "continue  ->  break",
    "skip last": "n < N;  ->  n < N - 1;",
    "skip first": "int n = 0;  ->  int n = 1;",
    "wrong step": "c += 32)  ->  c += 32 + 1)",
    "stale accumulator": "y[c] = 0.0f;  ->  ;",
    "overwritten accumulator": "sum += load  ->  sum = load",
    "drop statement": "sum = __fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, 16));"
    "  ->  ;",
    "index+1": "at[n]  ->  at[n + 1]",
    "index-1": "y[c]  ->  y[c - 1]",
    "wrong axis": "blockIdx.x  ->  blockIdx.y",
    "drop factor": "i * rows  ->  i",
    "drop term": "x + i * rows  ->  x",
    "narrow type": "i32 row;  ->  short row;",
    "widen type": "i32 row;  ->  i64 row;",
    "change sign": "for (int n  ->  for (u32 n",
    "compare": "i >= count  ->  i > count",
    "arithmetic": "threadIdx.x % 32  ->  threadIdx.x / 32",
    "logic": "&&  ->  ||",
    "constant+1": "* 32  ->  * 33",
    "constant-1": "load<T, 1>  ->  load<T, 0>",
    "constant off": "0.5f  ->  0.505f",
    "rounding": "__fadd_rn  ->  __fadd_rz",
    "swap operands": "threadIdx.x % 32  ->  (32) % (threadIdx.x)",
    "drop operation": "__fadd_rn(sum, __shfl_xor_sync(kAllLanes, sum, 16))  ->  (sum)",
}


def changed(text: str, operator: str) -> set[str]:
    """The whole texts that an operator makes of one."""
    source = Source("kernel.cu", text)
    return {
        text[:start] + insert + text[stop:]
        for start, stop, insert in OPERATORS[operator](source)
    }


@pytest.mark.parametrize("operator", OPERATORS)
def test_mutator_operator_makes_its_mistake(operator: str) -> None:
    """Catches an operator that silently finds no place any more."""
    before, after = EXPECTED[operator].split("  ->  ")
    places = [n for n in range(len(KERNEL)) if KERNEL.startswith(before, n)]
    wanted = {KERNEL[:n] + after + KERNEL[n + len(before) :] for n in places}
    assert wanted & changed(KERNEL, operator)


def test_mutator_leaves_declarations_and_templates_alone() -> None:
    text = "__global__ void f() {\n  float a[4], (&b)[2] = c[1];\n  g<T, N>(a);\n}\n"
    assert changed(text, "compare") == set()
    (only,) = changed(text, "index+1")
    assert "(&b)[2] = c[1 + 1]" in only


def test_mutator_tokens_leave_out_what_no_gpu_compiles() -> None:
    text = (
        "#define A(x) \\\n  (x + 1)\n// 2\nint a = 3; /* 4 */ char b = '5';\n"
        "#ifdef REFMOE_EMULATED\nint c = 6;\n#if X\nint d = 7;\n#endif\n#else\n"
        'int e = 8;\n#endif\nasm("9" : "=r"(a));\n'
    )
    assert [t.text for t in tokens(text) if t.kind == "number"] == ["3", "8"]
    shifts = [t.text for t in tokens("Vector<Vector<T, 1>> a = b >> 2 >= c;")]
    assert shifts.count(">>") == 1
    assert ">=" in shifts


def test_mutator_knows_the_function_around_a_place() -> None:
    named = {m.function for m in mutants("kernel.cu", KERNEL)}
    assert named == {"total", ""}


def test_mutator_reads_every_kernel() -> None:
    """Catches a file whose brackets the lexer does not pair."""
    for name, text in files().items():
        source = Source(name, text)
        loose = [
            token
            for i, token in enumerate(source.tokens)
            if token.text in ("(", ")", "[", "]", "{", "}") and i not in source.partner
        ]
        assert not loose, f"{name}: {loose[:3]}"


def test_mutator_changes_one_line_and_names_it() -> None:
    for mutant in mutants("kernel.cu", KERNEL):
        lines = KERNEL.splitlines()
        left = mutant.applied(KERNEL).splitlines()
        assert len(left) == len(lines)
        differing = [
            n for n, (a, b) in enumerate(zip(lines, left, strict=True)) if a != b
        ]
        assert differing == [mutant.line - 1], mutant.id
        assert mutant.before == " ".join(lines[differing[0]].split())
        assert mutant.after == " ".join(left[differing[0]].split())


def test_mutator_ids_and_texts_differ() -> None:
    found = list(mutants("kernel.cu", KERNEL))
    assert len({mutant.applied(KERNEL) for mutant in found}) == len(found)
    assert len({mutant.id for mutant in found}) == len(found)


def test_mutator_sample_goes_by_seed() -> None:
    texts = files()
    first, again = sample(texts, 200, seed=3), sample(texts, 200, seed=3)
    assert first == again == sample(texts, 500, seed=3)[:200]
    other = sample(texts, 200, seed=4)
    assert len(set(first) & set(other)) < 100


def test_mutator_sample_is_spread() -> None:
    """Catches a sample that one file or one operator fills."""
    texts = files()
    found = sample(texts, 400)
    assert len({mutant.operator for mutant in found}) == len(OPERATORS)
    by_file = [sum(mutant.file == name for mutant in found) for name in texts]
    assert max(by_file) < 60
    assert sum(map(bool, by_file)) >= len(texts) - 1


def test_mutator_enough_mutants() -> None:
    count = sum(len(list(mutants(name, text))) for name, text in files().items())
    assert count > 3000


def a_mutant(text: str, operator: str, number: int = 0) -> Mutant:
    """One of an operator's mutants of a text."""
    found = [m for m in mutants("kernel.cu", text) if m.operator == operator]
    return found[number]
