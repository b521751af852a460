"""Source, compiler and cache: what is hashed, what is refused, what is reported."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from refmoe.kernels import cache, compiler, source
from refmoe.kernels.compiler import ARCHITECTURES, CompileError

pytestmark = pytest.mark.usefixtures("nvrtc")

KERNEL = '#include "part.cuh"\n__global__ void put(float* to) { to[0] = VALUE; }\n'


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A room with one kernel that includes a header, and an empty cache."""
    (tmp_path / "put.cu").write_text(KERNEL)
    (tmp_path / "part.cuh").write_text("#define VALUE 1.0f\n")
    monkeypatch.setenv("REFMOE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "expand", lambda name: source.expand(name, tmp_path))
    monkeypatch.setattr(compiler, "expand", lambda name: source.expand(name, tmp_path))
    return tmp_path


def test_source_expands_each_include_once(tmp_path: Path) -> None:
    (tmp_path / "a.cuh").write_text('#include "b.cuh"\nint a;\n')
    (tmp_path / "b.cuh").write_text("int b;\n")
    (tmp_path / "k.cu").write_text('#include "a.cuh"\n#include "b.cuh"\nint k;\n')
    text = source.expand("k.cu", tmp_path)
    assert [line for line in text.splitlines() if line.startswith("int")] == [
        "int b;",
        "int a;",
        "int k;",
    ]
    assert "#include" not in text


def test_source_messages_point_at_the_including_line(room: Path) -> None:
    text = '#include "part.cuh"\n\n__global__ void put() { x; }\n'
    (room / "put.cu").write_text(text)
    with pytest.raises(CompileError, match=r"put\.cu\(3\): error"):
        compiler.compile_file("put.cu", ("put",), "sm_80")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('#include "gone.cuh"\n', FileNotFoundError, 'k.cu includes "gone.cuh"'),
        ('#include "k.cu"\n', ValueError, "an include cycle"),
    ],
)
def test_source_refuses(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "k.cu").write_text(text)
    with pytest.raises(error, match=message):
        source.expand("k.cu", tmp_path)


def test_source_refuses_slow_headers() -> None:
    with pytest.raises(ValueError, match=r"<cub/cub.cuh>; only cuda_fp16.h"):
        source.toolkit_headers("#include <cub/cub.cuh>\n")
    assert source.toolkit_headers("#include <cuda_fp16.h>\n") == ("cuda_fp16.h",)


def test_compiler_finds_the_allowed_headers() -> None:
    text = (
        "#include <cuda_bf16.h>\n__global__ void k(__nv_bfloat16* x) { x[0] = 1.0f; }"
    )
    assert compiler.compile_text(text, ("k",), "sm_90a").code.startswith(b"\x7fELF")


def test_cache_key_changes_with_everything_that_matters(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [cache.key("put.cu", ("put",), "sm_80")]
    keys.append(cache.key("put.cu", ("put",), "sm_90a"))
    keys.append(cache.key("put.cu", ("put", "put2"), "sm_80"))
    with source.replaced({"part.cuh": "#define VALUE 2.0f\n"}):
        keys.append(cache.key("put.cu", ("put",), "sm_80"))
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-ftz=true"))
    keys.append(cache.key("put.cu", ("put",), "sm_80"))
    monkeypatch.setattr(compiler, "version", lambda: (99, 0))
    keys.append(cache.key("put.cu", ("put",), "sm_80"))
    with source.replaced({"put.cu": "#include <cuda_fp16.h>\n" + KERNEL}):
        keys.append(cache.key("put.cu", ("put",), "sm_80"))
        monkeypatch.setattr(cache, "header_digest", lambda names: "another header")
        keys.append(cache.key("put.cu", ("put",), "sm_80"))
    assert len(set(keys)) == len(keys)


def test_cache_builds_once_and_reads_back(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, built = cache.fetch("put.cu", ("put",), "sm_80")
    monkeypatch.setattr(compiler, "compile_file", None)
    again, found = cache.fetch("put.cu", ("put",), "sm_80")
    assert (again, found) == (path, built)
    assert path.read_bytes() == built.code


@pytest.mark.parametrize("damage", ["code", "description", "no description"])
def test_cache_rebuilds_what_is_damaged(room: Path, damage: str) -> None:
    path, built = cache.fetch("put.cu", ("put",), "sm_80")
    description = path.with_suffix(".json")
    if damage == "code":
        path.write_bytes(built.code[:-1])
    elif damage == "description":
        description.write_text('{"sha256"')
    else:
        description.unlink()
    assert cache.fetch("put.cu", ("put",), "sm_80") == (path, built)
    assert json.loads(description.read_text())["target"] == "sm_80"


def test_cache_survives_a_race_of_threads(room: Path) -> None:
    found: list[Any] = []

    def fetch() -> None:
        found.append(cache.fetch("put.cu", ("put",), "sm_80"))

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(entry == found[0] for entry in found)
    assert len(list((room / "cache" / "kernels").iterdir())) == 2


def test_compiler_reports_usage_per_expression() -> None:
    text = (
        "template <int N> __global__ void k(float* x) {"
        " __shared__ float s[N]; s[threadIdx.x] = x[0]; __syncthreads();"
        " x[threadIdx.x] = s[N - 1 - threadIdx.x]; }"
    )
    image = compiler.compile_text(text, ("k<64>", "k<32>"), "sm_80")
    assert {name: usage.shared for name, usage in image.usage.items()} == {
        "k<64>": 256,
        "k<32>": 128,
    }
    assert all(
        usage.spill_stores == 0 < usage.registers for usage in image.usage.values()
    )
    assert set(image.names) == {"k<64>", "k<32>"}


def test_compiler_reports_spills() -> None:
    text = (
        "__global__ void __launch_bounds__(1024, 2) k(float* x) {"
        " float a[64]; for (int i = 0; i < 64; ++i) a[i] = x[i * 7];"
        " __syncthreads();"
        " for (int i = 0; i < 64; ++i) x[i] = a[i] * a[63 - i]; }"
    )
    usage = compiler.compile_text(text, ("k",), "sm_80").usage["k"]
    assert usage.spill_stores > 0
    assert usage.spill_loads > 0


def test_compiler_fails_on_serialised_warnings() -> None:
    text = (
        "__global__ void k(float* x) "
        '{ asm volatile("setmaxnreg.inc.sync.aligned.u32 40;"); }'
    )
    with pytest.raises(CompileError, match="C75"):
        compiler.compile_text(text, ("k",), "sm_90a")


def test_compiler_keeps_denormals_and_never_contracts() -> None:
    text = (
        "__global__ void k(float* x) { x[0] = x[1] * x[2] + x[3]; x[4] = x[5] / x[6]; }"
    )
    image = compiler.compile_text(text, ("k",), "compute_80")
    ptx = image.code.decode()
    assert ".ftz" not in ptx
    assert "approx" not in ptx
    assert "mul" in ptx
    assert "fma" not in ptx
    assert image.usage == {}


@pytest.mark.parametrize("target", [*ARCHITECTURES, "compute_80", "compute_89"])
def test_compiler_knows_every_target(target: str) -> None:
    image = compiler.compile_text(
        "__global__ void k(int* x) { x[0] = 1; }", ("k",), target
    )
    magic = b"//\n" if target.startswith("compute") else b"\x7fELF"
    assert image.code.startswith(magic)


@pytest.mark.parametrize(
    ("capability", "target"),
    [
        ((8, 0), "sm_80"),
        ((8, 6), "sm_86"),
        ((8, 7), "compute_80"),
        ((8, 9), "sm_89"),
        ((9, 0), "sm_90a"),
        ((10, 0), "sm_100a"),
        ((10, 3), "compute_80"),
        ((12, 0), "sm_120a"),
        ((13, 0), "compute_80"),
    ],
)
def test_compiler_picks_a_target_for_each_gpu(
    capability: tuple[int, int], target: str
) -> None:
    assert compiler.target_of(*capability) == target


def test_compiler_refuses_old_gpus() -> None:
    with pytest.raises(RuntimeError, match=r"capability 7\.5; the kernels need 8\.0"):
        compiler.target_of(7, 5)


def test_compiler_names_the_remedy_for_an_old_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = SimpleNamespace(
        nvrtcVersion=lambda: (0, 12, 2),
        nvrtcGetSupportedArchs=lambda: (0, [80, 86, 90]),
    )
    monkeypatch.setattr(compiler, "nvrtc", lambda: old)
    message = (
        r"NVRTC 12\.2 cannot compile for sm_120a; it knows sm_80, sm_86, sm_90\. "
        "Install a newer nvidia-cuda-nvrtc, or set REFMOE_TARGET=compute_80"
    )
    with pytest.raises(RuntimeError, match=message):
        compiler.check_target("sm_120a")


def test_compiler_names_the_remedy_for_a_missing_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise RuntimeError("libnvrtc.so not found")

    monkeypatch.setattr(
        compiler, "nvrtc", lambda: SimpleNamespace(nvrtcVersion=missing)
    )
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-nvrtc"):
        compiler.version()


def test_compiler_names_unknown_targets() -> None:
    with pytest.raises(ValueError, match="target='sm_75' is unknown; use one of sm_80"):
        compiler.check_target("sm_75")
