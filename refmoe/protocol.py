"""The port, the public contract: which ops there are and how each is called.

A port is any module, object or function that offers some of the ops below. This table
is the only place that says what an op takes and returns. Symbols: T tokens, H hidden,
I intermediate, E experts (n * n of them for product keys), k top_k, R rows (slots that
have an expert), N x K a weight.

An id of -1 (or past the experts with weights) has no row and contributes nothing; an id
that stands twice in a token has two rows. Rows of x past the last offset belong to
nobody: they yield zeros in `grouped_gemm`, and bytes that no one reads in
`grouped_quantize`. The keyword `token_ids`, index[T], names rows of the table of a
router by hash. The keyword `local` is the range (start, stop) of experts that live
here: params hold only them, `permute` counts only them, all other ids contribute
nothing, and the rank with start 0 adds what is replicated: shared and identity experts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """An argument or a result: its name, element types and shape.

    Types: ``x`` is the layer's dtype, ``out`` that of `Numerics.output` (the layer's
    where None), ``intermediate`` the one of `Numerics`, ``float`` any float, ``index``
    i32 or i64, ``codes`` and ``scales`` the bytes (or fp32 scales) of a block format,
    "" no tensor.
    """

    name: str
    dtype: str = ""
    shape: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.dtype:
            return self.name
        return f"{self.name}: {self.dtype}[{', '.join(self.shape)}]"


@dataclass(frozen=True, slots=True)
class Op:
    """A contiguous span of taps that a port may implement as one call.

    `results` are the taps that the call returns, in this order; `keywords` are passed
    by name, each only if the port's function has such a parameter.
    """

    name: str
    about: str
    arguments: tuple[Field, ...]
    results: tuple[Field, ...]
    keywords: tuple[str, ...] = ()
    #: Results that may be left out at the end (a global scale).
    optional: int = 0
    #: Sizes that a case without a model must give.
    sizes: tuple[str, ...] = ("H", "I", "E", "k")
    #: Whether what it computes depends on the model and not on sizes alone.
    layered: bool = True

    @property
    def function(self) -> str:
        """What a port calls it: a span's + is an underscore there."""
        return self.name.replace("+", "_")

    @property
    def weighted(self) -> bool:
        """Whether the experts' weights take part."""
        return {"H", "I"} <= set(self.sizes)

    def __str__(self) -> str:
        arguments = ", ".join(str(field) for field in self.arguments)
        results = ", ".join(str(field) for field in self.results)
        return f"{self.function}({arguments}) -> {results}"


def _fields(*specifications: str) -> tuple[Field, ...]:
    """Fields from "name dtype[shape]" texts."""
    fields = []
    for text in specifications:
        name, _, kind = text.partition(" ")
        dtype, _, shape = kind.partition("[")
        sizes = tuple(size.strip() for size in shape.rstrip("]").split(",") if size)
        fields.append(Field(name, dtype, sizes))
    return tuple(fields)


OPS: dict[str, Op] = {
    op.name: op
    for op in (
        Op(
            "route",
            "logits to the chosen experts and their weights",
            _fields("logits float[T, E]", "params", "layer"),
            _fields("ids index[T, k]", "weights float[T, k]"),
            ("token_ids",),
            sizes=("E", "k"),
        ),
        Op(
            "quantize",
            "values to codes and scales of a block format",
            _fields("x x[T, H]", "format"),
            _fields(
                "codes codes[T, H]",
                "scales scales[T, H / block]",
                "global_scale float[]",
            ),
            optional=1,
            sizes=("H",),
            layered=False,
        ),
        Op(
            "dequantize",
            "codes and scales to values",
            _fields("blocks"),
            _fields("values float[T, H]"),
            sizes=("H",),
            layered=False,
        ),
        Op(
            "permute",
            "slots t * k + j sorted by expert, and where each expert starts",
            _fields("ids index[T, k]", "layer"),
            _fields("rows index[R]", "offsets index[E + 1]"),
            ("local",),
            sizes=("E", "k"),
            layered=False,
        ),
        Op(
            "grouped_quantize",
            "rows sorted by expert to codes and scales",
            _fields("x x[R, H]", "offsets index[E + 1]", "format"),
            _fields(
                "codes codes[R, H]", "scales scales[R, H / block]",
                "global_scale float[E]",
            ),
            optional=1,
            sizes=("H", "E", "k"),
            layered=False,
        ),
        Op(
            "grouped_gemm",
            "each expert's rows times its weight, transposed",
            _fields("x x[R, K]", "weights [E, N, K]", "offsets index[E + 1]"),
            _fields("y out[R, N]"),
        ),
        Op(
            "activate",
            "gate and up to the intermediate",
            _fields("gate_up x[R, 2I]", "params", "layer", "expert index[R]"),
            _fields("intermediate intermediate[R, I]"),
            sizes=("I", "E", "k"),
        ),
        Op(
            "activate+quantize",
            "gate and up to the intermediate's codes and scales; a format with a "
            "global scale takes it from params.intermediate_scale",
            _fields(
                "gate_up x[R, 2I]", "params", "layer", "expert index[R]", "format"
            ),
            _fields(
                "codes codes[R, I]", "scales scales[R, I / block]",
                "global_scale float[]",
            ),
            optional=1,
            sizes=("I", "E", "k"),
        ),
        Op(
            "experts",
            "the experts' MLPs and their weighted sum",
            _fields(
                "x x[T, H]", "ids index[T, k]", "weights float[T, k]", "params", "layer"
            ),
            _fields("routed out[T, H]"),
            ("prepared", "local"),
        ),
        Op(
            "combine",
            "the weighted sum over each token's rows",
            _fields("down x[R, H]", "rows index[R]", "weights float[T, k]"),
            _fields("routed out[T, H]"),
            sizes=("H", "E", "k"),
            layered=False,
        ),
        Op(
            "moe",
            "the whole layer",
            _fields("x x[T, H]", "logits float[T, E]", "params", "layer"),
            _fields("out out[T, H]"),
            ("prepared", "token_ids", "local"),
        ),
        Op(
            "omni_route",
            "product-key router: the top_k sums of one logit from each half",
            _fields("logits_x x[T, n]", "logits_y x[T, n]", "top_k"),
            _fields("scores x[T, k]", "ids index[T, k]"),
            sizes=("E", "k"),
            layered=False,
        ),
        Op(
            "omni_route_backward",
            "gradients of the product-key router's scores",
            _fields("d_scores x[T, k]", "ids index[T, k]", "n"),
            _fields("d_x out[T, n]", "d_y out[T, n]"),
            sizes=("E", "k"),
            layered=False,
        ),
        Op(
            "omni_experts",
            "experts of one neuron each",
            _fields(
                "x x[T, H]", "ids index[T, k]", "weights float[T, k]",
                "up x[E, H]", "down x[E, H]",
            ),
            _fields("y out[T, H]"),
            sizes=("H", "E", "k"),
            layered=False,
        ),
    )
}  # fmt: skip


#: The name of each op by that of a port's function.
FUNCTIONS = {op.function: name for name, op in OPS.items()}


def op(name: str) -> Op:
    """The op called `name`.

    Raises ValueError naming the closest op, or all of them.
    """
    try:
        return OPS[name]
    except KeyError:
        raise ValueError(f"no op is called {name!r}; {suggestion(name, OPS)}") from None


def suggestion(name: str, known: object) -> str:
    """`did you mean 'x'?` where something known is close, else the whole list."""
    from difflib import get_close_matches

    names = [str(item) for item in known]  # type: ignore[attr-defined]
    close = get_close_matches(name, names, n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
