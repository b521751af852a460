"""CUDA text as tokens: what a mutation may touch, and where brackets meet.

No parser: comments, strings, preprocessor lines and the parts that only the emulator
compiles are left out, and the house style settles the rest: `<` and `>>` between blanks
compare and shift, any other belong to template arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""
    (?P<blank>\s+|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')
  | (?P<line>(?<![^\n])[ \t]*\#(?:\\\n|[^\n])*)
  | (?P<word>[A-Za-z_]\w*)
  | (?P<number>\.?\d(?:[eE][+-]|'?[\w.])*)
  | (?P<mark><<=|>>=|\+\+|--|->|::|&&|\|\||<<|(?<=\s)>>(?=\s)|[-+*/%&|^<>=!]=|[^\s\w])
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING = {"(": ")", "[": "]", "{": "}"}
#: Words in front of a name that make no declaration of it.
KEYWORDS = frozenset(
    "return else case do goto break continue if for while switch default using "
    "sizeof const_cast static_cast reinterpret_cast namespace template struct "
    "class enum public private operator".split()
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a number or a mark, from `start` on."""

    kind: str
    text: str
    start: int

    @property
    def stop(self) -> int:
        """Behind its last character."""
        return self.start + len(self.text)


def tokens(text: str) -> Iterator[Token]:
    """The tokens of `text` that a GPU's compiler sees, in order."""
    at, hidden, depth = 0, 0, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"no token at {text[at : at + 20]!r}"
        at = match.end()
        if match.lastgroup == "line":
            words = match[0].replace("#", " ").split()
            if words[0].startswith("if"):
                depth += 1
                if words[:2] == ["ifdef", "REFMOE_EMULATED"]:
                    hidden = depth
            elif words[0] == "else" and hidden == depth:
                hidden = 0
            elif words[0] == "endif":
                hidden = 0 if hidden == depth else hidden
                depth -= 1
        elif match.lastgroup != "blank" and not hidden:
            yield Token(str(match.lastgroup), match[0], match.start())


@dataclass(slots=True)
class Source:
    """A file's tokens, its matching brackets and the functions around them."""

    name: str
    text: str
    tokens: list[Token] = field(init=False)
    #: Index of the closing bracket of each opening one, and back.
    partner: dict[int, int] = field(init=False, default_factory=dict)
    #: Index of the innermost bracket that is open at each token, -1 outside of all.
    around: list[int] = field(init=False, default_factory=list)
    #: Name of the function around each token, "" outside.
    function: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.tokens = list(tokens(self.text))
        self._match()
        self._name_functions()

    def spaced(self, i: int) -> bool:
        """Whether blanks stand on both sides of a token."""
        token = self.tokens[i]
        around = self.text[token.start - 1 : token.start] + self.text[token.stop :][:1]
        return len(around) == 2 and around.isspace()

    def part(self, first: int, last: int) -> str:
        """The text from token `first` to token `last`, both included."""
        return self.text[self.tokens[first].start : self.tokens[last].stop]

    def is_(self, i: int, *texts: str) -> bool:
        """Whether token `i` exists and reads like one of `texts`."""
        return 0 <= i < len(self.tokens) and self.tokens[i].text in texts

    def angle(self, i: int) -> bool:
        """Whether a `<` or `>` belongs to template arguments."""
        token = self.tokens[i]
        if token.text == "<":
            return not self.spaced(i)
        before = self.text[token.start - 1 : token.start]
        return token.text == ">" and not before.isspace()

    def operand(self, i: int) -> bool:
        """Whether token `i` may end an operand."""
        if not 0 <= i < len(self.tokens):
            return False
        token = self.tokens[i]
        if token.kind == "word":
            return token.text not in KEYWORDS
        return token.kind == "number" or token.text in (")", "]", "}")

    def binary(self, i: int) -> bool:
        """Whether the mark `i` stands between two operands."""
        return self.spaced(i) and self.operand(i - 1)

    def back(self, i: int) -> int:
        """The first token of the primary expression that ends at token `i`."""
        while True:
            if self.is_(i, ")", "]", "}", ">") and i in self.partner:
                i = self.partner[i]
                named = self.operand(i - 1) or self.is_(i - 1, ">")
                if named and not self.spaced(i - 1) and self._touch(i - 1):
                    i -= 1
                    continue
            elif self.is_(i - 1, ".", "->", "::"):
                i -= 2
                continue
            return i

    def ahead(self, i: int) -> int:
        """The last token of the primary expression that begins at token `i`."""
        while self.is_(i, "-", "!", "*", "&", "~", "+"):
            i += 1
        while True:
            i = self.partner.get(i, i)
            follows = self.tokens[i + 1 : i + 2]
            if not follows or follows[0].start != self.tokens[i].stop:
                return i
            if follows[0].text in (".", "->", "::"):
                i += 2
            elif i + 1 in self.partner and self.partner[i + 1] > i + 1:
                i += 1
            else:
                return i

    def arguments(self, opening: int) -> list[tuple[int, int]]:
        """First and last token of each argument in a pair of brackets."""
        found, first, i = [], opening + 1, opening + 1
        closing = self.partner[opening]
        while i < closing:
            if self.tokens[i].text == ",":
                found.append((first, i - 1))
                first = i + 1
            i = self.partner[i] + 1 if self.partner.get(i, 0) > i else i + 1
        return [*found, (first, closing - 1)] if closing > first else found

    def begins_statement(self, i: int) -> bool:
        """Whether a statement begins with token `i`."""
        if not self.function[i]:
            return False
        if self.is_(i - 1, ";", "{", "}", "else"):
            return True
        if not self.is_(i - 1, ")"):
            return False
        head = self.partner.get(i - 1, 0) - 1
        return self.is_(head, "if", "for", "while", "constexpr")

    def ends_statement(self, i: int) -> int | None:
        """The semicolon of the statement that token `i` is in."""
        while i < len(self.tokens):
            if self.tokens[i].text == ";":
                return i
            if self.tokens[i].text == "}":
                return None
            i = self.partner[i] + 1 if self.partner.get(i, 0) > i else i + 1
        return None

    def _touch(self, i: int) -> bool:
        return self.tokens[i].stop == self.tokens[i + 1].start

    def _match(self) -> None:
        stack: list[int] = []
        for i, token in enumerate(self.tokens):
            self.around.append(stack[-1] if stack else -1)
            if token.text in _OPENING or (token.text == "<" and self.angle(i)):
                stack.append(i)
            elif token.text in (")", "]", "}") or (token.text == ">" and self.angle(i)):
                wanted = _OPENING.get(self.tokens[stack[-1]].text, ">") if stack else ""
                if wanted == token.text:
                    opened = stack.pop()
                    self.partner[opened], self.partner[i] = i, opened

    def _name_functions(self) -> None:
        """A body follows a parameter list, and lies in no other body."""
        self.function = [""] * len(self.tokens)
        i = 0
        while i < len(self.tokens):
            if not self.is_(i, "{") or i not in self.partner:
                i += 1
                continue
            end, before = self.partner[i], i - 1
            if self.is_(before, "const"):
                before -= 1
            if not self.is_(before, ")"):
                # A struct, an enum or a table: look inside.
                i += 1
                continue
            opening = self.partner[before]
            own = self.is_(opening - 1, ">") and opening - 1 in self.partner
            name = self.partner[opening - 1] - 1 if own else opening - 1
            # Of operator[] and operator() the bracket stands for the rest.
            text = self.tokens[name].text
            for inside in range(i, end + 1):
                self.function[inside] = "operator" if text in ("]", ")") else text
            i = end + 1
