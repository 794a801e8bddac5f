"""Mutations of bytes and text that know nothing of the file's format.

Every function takes the random numbers that it uses: the same generator gives the same mutation.
"""

import random
import struct

Random = random.Random

_INTEGERS = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 100, 127, 128, 255, 256, 1000, 4095, 4096, 32767, 32768, 65535, 65536)
INTEGERS = (*_INTEGERS, *(-value for value in _INTEGERS), 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -(2**31))
FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-3,
    0.5,
    255.0,
    1e9,
    1e20,
    3e38,
    -3e38,
    float("inf"),
    -float("inf"),
    float("nan"),
)

#: What text files get in place of a value: odd numbers, odd types, and attempts to run code.
TOKENS = (
    *("0", "-1", "1", "2", "1e999", "-1e999", "nan", ".nan", ".inf", "NaN", "Infinity", "1e-400", "0x10", "1_000"),
    *(
        "9" * 30,
        "9" * 5000,
        "99999999",
        "2147483648",
        "-0",
        "0.1",
        "1.5",
        "true",
        "no",
        "null",
        "~",
        "",
        "''",
        "[]",
        "{}",
        "[[]]",
    ),
    *(
        "{a: b}",
        "[1, 2",
        "a: b: c",
        "- -",
        "*a",
        "&a [*a]",
        "&a {k: *a}",
        "!!binary aGk=",
        "!!set {a}",
        "!!timestamp 1",
        "2001-01-01",
    ),
    *(
        "!!python/object/apply:os.system ['touch canary-was-run']",
        "!!python/name:os.system",
        "!!float x",
        "!!int x",
        "!!map []",
    ),
    *(
        "os.system",
        "subprocess.Popen",
        "fuzz_canary.Thing",
        "builtins.eval",
        "diffmedseg",
        "torch.load",
        "..",
        "../..",
        "/etc/passwd",
    ),
    *(
        "~root",
        "a" * 5000,
        "é",
        "e\u0301",
        "\u202e",
        "\ufeff",
        "\x00",
        "\x1b[31m",
        "\u0665",
        "\r",
        "\t",
        "%s",
        "{0}",
        "{id}",
        "$HOME",
    ),
    *(
        "(?P<id>.*",
        "(a+)+$",
        "[",
        "*",
        "**",
        "?",
        "=",
        "<<: *a",
        "---\n---",
        "# ",
        '"',
        "'",
        "`",
        "|",
        ">",
        "@",
        "%YAML 9.9",
    ),
)
_DEEP = ("[", "{a: ", "- ", "(", '{"a":')


def mutate_bytes(content: bytes, rng: Random, other: bytes = b"") -> bytes:
    """Apply one to four random changes."""
    for _ in range(1 + min(3, int(rng.expovariate(1.2)))):
        content = rng.choice(_CHANGES)(content, rng, other)
    return content


def mutate_text(content: bytes, rng: Random, other: bytes = b"") -> bytes:
    """Apply one to three changes to words and lines."""
    text = content.decode("utf-8", "replace")
    for _ in range(1 + min(2, int(rng.expovariate(1.2)))):
        text = rng.choice(_TEXT_CHANGES)(text, rng)
    return text.encode("utf-8", "surrogatepass")


def integer(rng: Random, kind: str) -> bytes:
    """Return an interesting number as ``struct`` packs it, cut to the range of its kind."""
    if kind[-1] in "fd":
        return struct.pack(kind, rng.choice(FLOATS))
    bits = 8 * struct.calcsize(kind)
    value = rng.choice(INTEGERS) if rng.random() < 0.8 else rng.getrandbits(bits)
    value &= 2**bits - 1
    return struct.pack(kind, value - 2**bits if kind[-1].islower() and value >> (bits - 1) else value)


def overwrite(content: bytes, at: int, new: bytes) -> bytes:
    """Put bytes in the place of as many others."""
    return content[:at] + new + content[at + len(new) :]


def _place(content: bytes, rng: Random) -> int:
    # Headers come first in most formats.
    return rng.randrange(min(len(content), 64) if rng.random() < 0.4 else len(content)) if content else 0


def _block(content: bytes, rng: Random) -> tuple[int, int]:
    start = _place(content, rng)
    return start, min(len(content), start + 1 + int(rng.expovariate(1 / 12)))


def _flip(content: bytes, rng: Random, other: bytes) -> bytes:
    if not content:
        return content
    at = _place(content, rng)
    return overwrite(content, at, bytes([content[at] ^ 1 << rng.randrange(8)]))


def _number(content: bytes, rng: Random, other: bytes) -> bytes:
    kind = rng.choice("<>") + rng.choice("bBhHiIqQfd")
    return overwrite(content, _place(content, rng), integer(rng, kind))[: max(len(content), 1)]


def _truncate(content: bytes, rng: Random, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _delete(content: bytes, rng: Random, other: bytes) -> bytes:
    start, end = _block(content, rng)
    return content[:start] + content[end:]


def _duplicate(content: bytes, rng: Random, other: bytes) -> bytes:
    start, end = _block(content, rng)
    return content[:end] + content[start:end] * rng.choice((1, 1, 2, 50)) + content[end:]


def _insert(content: bytes, rng: Random, other: bytes) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.randbytes(1 + int(rng.expovariate(1 / 8))) + content[at:]


def _fill(content: bytes, rng: Random, other: bytes) -> bytes:
    start, end = _block(content, rng)
    return overwrite(content, start, bytes([rng.choice((0, 255, 127, 32))]) * (end - start))


def _splice(content: bytes, rng: Random, other: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES = (_flip, _flip, _number, _number, _number, _truncate, _delete, _duplicate, _insert, _fill, _splice)


def _words(text: str) -> list[tuple[int, int]]:
    found, start = [], None
    for at, letter in enumerate(f"{text} "):
        if letter in " \n,:[]{}\"'()=":
            if start is not None:
                found.append((start, at))
            start = None
        elif start is None:
            start = at
    return found


def _replace_word(text: str, rng: Random) -> str:
    words = _words(text)
    if not words:
        return rng.choice(TOKENS)
    start, end = rng.choice(words)
    return text[:start] + rng.choice(TOKENS) + text[end:]


def _copy_word(text: str, rng: Random) -> str:
    words = _words(text)
    if not words:
        return text
    (start, end), (first, last) = rng.choice(words), rng.choice(words)
    return text[:start] + text[first:last] + text[end:]


def _replace_value(text: str, rng: Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    lines[at] = f"{key}{colon} {rng.choice(TOKENS)}" if colon else rng.choice(TOKENS)
    return "\n".join(lines)


def _change_lines(text: str, rng: Random) -> str:
    lines = text.split("\n")
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines) + 1)
    line = lines[at]
    if rng.random() < 0.5:
        del lines[at]
    if rng.random() < 0.6:
        lines.insert(to, line if rng.random() < 0.7 else " " * rng.randrange(9) + line.strip())
    return "\n".join(lines)


def _insert_token(text: str, rng: Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(TOKENS) + text[at:]


def _nest(text: str, rng: Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(_DEEP) * rng.choice((3, 100, 2000, 20000)) + text[at:]


def _expand(text: str, rng: Random) -> str:
    """Refer to lists of lists by anchors, which a few lines make billions of."""
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(10)]
    return "\n".join([*lines, text]) if rng.random() < 0.5 else "\n".join([text, *lines])


def _cut(text: str, rng: Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _damage(text: str, rng: Random) -> str:
    return mutate_bytes(text.encode("utf-8", "replace"), rng).decode(
        "utf-8", rng.choice(("replace", "surrogateescape"))
    )


_TEXT_CHANGES = (
    *[_replace_word] * 5,
    *[_replace_value] * 5,
    *[_copy_word] * 2,
    *[_change_lines] * 3,
    *[_insert_token] * 2,
    *(_nest, _expand, _cut, _damage),
)
