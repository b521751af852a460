"""The generator against its published vectors, a scalar twin and frozen output."""

from __future__ import annotations

import hashlib

import numpy
import pytest
import torch

from refmoe.generator import RUN, Stream, philox, power_of_two

# Known answers that ship with Random123 1.14 (kat_vectors, philox4x32 10 rounds).
KNOWN = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (
        (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2,
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]  # fmt: skip


@pytest.mark.parametrize("counter, key, want", KNOWN)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, int], want: str
) -> None:
    words = philox([numpy.array([word], numpy.uint64) for word in counter], key)
    assert " ".join(f"{int(word[0]):08x}" for word in words) == want


def scalar_philox(counter: list[int], key: list[int]) -> list[int]:
    """The same in Python's unbounded integers, as the paper writes it."""
    for _ in range(10):
        first, second = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [
            (second >> 32) ^ counter[1] ^ key[0], second % 2**32,
            (first >> 32) ^ counter[3] ^ key[1], first % 2**32,
        ]  # fmt: skip
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def test_stream_words_equal_a_scalar_twin() -> None:
    stream = Stream(2**40 + 3, "twin")
    words = stream.words((3, 7)).reshape(-1).tolist()
    want: list[int] = []
    for block in range(6):
        want += scalar_philox([block, 0, 0, 0], list(stream.key))
    assert words == want[:21]


def test_stream_element_does_not_depend_on_the_shape() -> None:
    stream = Stream(5, "x")
    assert torch.equal(stream.words((100,))[:37], stream.words((37,)))
    assert torch.equal(stream.words((10, 10)).reshape(-1), stream.words((100,)))


def test_stream_names_and_seeds_are_told_apart() -> None:
    streams = [Stream(1, "2x"), Stream(12, "x"), Stream(1, "x"), Stream(1, "x/2")]
    streams.append(Stream(1, "x").substream("y"))
    assert len({stream.key for stream in streams}) == len(streams)


def digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(data).hexdigest()[:16]


# Cases are replayed from these bits: a change here invalidates every case line.
FROZEN = {
    "words": "c26026bc026e0f50",
    "integers": "f954b98fab32b37e",
    "dyadic": "77eb18260df33c19",
    "normal": "9b9897f13371c31b",
    "choose": "c5a20409501f81f1",
    "permutations": "4ceb0e9f670b39bb",
}


@pytest.mark.parametrize("threads", [1, 2])
def test_stream_output_is_frozen(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        stream = Stream(7, "frozen")
        got = {
            "words": digest(stream.words((1000, 41))),
            "integers": digest(stream.integers((1000,), -5, 5)),
            "dyadic": digest(stream.dyadic((1000,))),
            "normal": digest(stream.normal((1000, 41))),
            "choose": digest(stream.choose((1000,), (0.5, 1.0, -3.0))),
            "permutations": digest(stream.permutations(50, 33)),
        }
    finally:
        torch.set_num_threads(before)
    assert got == FROZEN


def test_stream_runs_join_without_a_seam() -> None:
    """Streams are made some blocks at a time; none may be twice or left out."""
    stream = Stream(11, "long")
    count = 4 * RUN + 9
    words = stream.words((count,))
    want = scalar_philox([RUN, 0, 0, 0], list(stream.key))
    assert words[4 * RUN : 4 * RUN + 4].tolist() == want
    halves = stream.words((4 * (RUN + 3),)).reshape(-1, 4)[RUN - 1 :]
    total = ((halves & 0xFFFF) + (halves >> 16)).sum(1)
    want_normal = (2 * total - 8 * 0xFFFF).double() * (1.224744871391589 / 131072)
    assert torch.equal(stream.normal((RUN + 3,))[RUN - 1 :], want_normal)


def test_stream_integers_are_uniform_and_within_bounds() -> None:
    values = Stream(0, "integers").integers((60_000,), -2, 3)
    counts = torch.bincount(values + 2)
    assert len(counts) == 6
    # Six standard deviations of a binomial count around 10,000.
    assert int((counts - 10_000).abs().max()) < 6 * (60_000 * 5 / 36) ** 0.5


@pytest.mark.parametrize("low, high", [(1, 0), (0, 2**31)])
def test_stream_integers_reject_a_range_that_does_not_fit(low: int, high: int) -> None:
    with pytest.raises(ValueError, match=r"must hold 1 to 2\^31 integers"):
        Stream(0).integers((1,), low, high)


def test_stream_normal_has_the_moments_of_a_normal() -> None:
    values = Stream(1, "normal").normal((200_000,))
    assert abs(float(values.mean())) < 6 / 200_000**0.5
    assert abs(float(values.var()) - 1.0) < 6 * (2 / 200_000) ** 0.5
    assert float(values.abs().max()) < 4.9
    # Irwin-Hall of eight: excess kurtosis -6/40.
    assert abs(float((values**4).mean()) - (3 - 6 / 40)) < 0.08


def test_stream_normal_is_exact_in_its_integers() -> None:
    words = Stream(4, "n").words((3, 4)).tolist()
    want = [
        (2 * sum((w & 0xFFFF) + (w >> 16) for w in row) - 8 * 0xFFFF)
        * (1.224744871391589 / 131072)
        for row in words
    ]
    assert Stream(4, "n").normal((3,)).tolist() == want


def test_stream_dyadic_is_odd_over_a_power_of_two() -> None:
    values = Stream(1, "dyadic").dyadic((1000,), 8) * 256
    assert torch.equal(values, values.round())
    assert bool((values.long() % 2 == 1).all())
    assert float(values.abs().max()) < 256


def test_stream_permutations_are_permutations() -> None:
    rows = Stream(9, "p").permutations(20, 31)
    assert torch.equal(rows.sort(1).values, torch.arange(31).expand(20, -1))
    assert len({tuple(row) for row in rows.tolist()}) == 20


def test_power_of_two_over_the_normal_range() -> None:
    exponents = torch.arange(-1022, 1024)
    want = torch.tensor([2.0**e for e in range(-1022, 1024)], dtype=torch.float64)
    assert torch.equal(power_of_two(exponents), want)
