# SPDX-License-Identifier: Apache-2.0
"""What the programs read: made anew for each run, the same bytes every time.

Owns: the shape of each input. Called by catalogue. Text is as programs meet it: records whose fields repeat, versions
of one file that differ in a few lines, C that a generator wrote. None of it depends on a locale or on hash seeds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

__all__ = ["big_source", "project", "records", "values", "versions"]

_LETTERS = "etaoinshrdlcumwfgypb"
_LEVELS = ("debug", "info", "notice", "warning", "error")
_PARTS = ("auth", "billing", "catalogue", "delivery", "gateway", "ledger", "search", "worker")


def records(path: Path, nbytes: int, seed: int = 1) -> None:
    """Write about `nbytes` of log records with their traces, lines of about 6000 bytes, their keys in random order.

    The lines are long for what is compared: to merge what is in order it looks at a page of each line, a few times.
    With lines of a page's length or less that is a fault for every page of the file, each time.
    """
    draw = random.Random(seed)
    messages = [" ".join(words) for words in _sentences(draw, count=3000, words=28, vocabulary=4000)]
    with path.open("w", encoding="ascii") as file:
        done = 0
        while done < nbytes:
            done += file.write(_record(draw, messages))


def _record(draw: random.Random, messages: list[str]) -> str:
    part, level = draw.choice(_PARTS), draw.choice(_LEVELS)
    number = draw.getrandbits(64)
    tail = ",".join(
        f'{{"service":"{part}","step":{step},"elapsed_us":{number >> (step % 16 * 4) & 0xFFF},"outcome":"accepted"}}'
        for step in range(68)
    )
    return (
        f'{number:016x} {{"level":"{level}","service":"{part}","host":"node-{number % 64:02d}.example.org",'
        f'"message":"{draw.choice(messages)}","detail":"{draw.choice(messages)}","trace":[{tail}]}}\n'
    )


def versions(path: Path, nbytes: int, seed: int = 2) -> None:
    """Write about `nbytes`: one file of 1 MB again and again, ten of its lines changed from one version to the next.

    A compressor finds a version in the one before, so that the memory it keeps grows in order: a window and the
    index of each of its positions. Few different words keep the table by which it looks words up small.
    """
    draw = random.Random(seed)
    words = ["".join(draw.choices(_LETTERS[:12], k=draw.randint(3, 8))) for _ in range(40)]

    def line() -> str:
        return " ".join(draw.choices(words, k=12)) + "\n"

    lines = [line() for _ in range(15_000)]
    with path.open("w", encoding="ascii") as file:
        done = 0
        while done < nbytes:
            for _ in range(10):
                lines[draw.randrange(len(lines))] = line()
            done += file.write("".join(lines))


def values(count: int, seed: int = 5) -> Iterator[bytes]:
    """Yield the values of a server's keys: records of 4000 bytes, each a piece of one long text."""
    draw = random.Random(seed)
    text = " ".join(" ".join(words) for words in _sentences(draw, count=20_000, words=28, vocabulary=4000)).encode()
    for number in range(count):
        at = draw.randrange(len(text) - 4000)
        yield (f'{{"id":{number},"ref":"{draw.getrandbits(128):032x}","body":"'.encode() + text[at : at + 4000])[
            :3998
        ] + b'"}'


def big_source(path: Path, functions: int, seed: int = 3) -> None:
    """Write one C source of that many functions, about 4 KB each, with loops, switches and calls of one another."""
    path.write_text("#include <stddef.h>\n" + "".join(_functions(random.Random(seed), functions, "f")))


def project(directory: Path, files: int, functions: int, seed: int = 4) -> None:
    """Make a C project with a makefile: `files` sources of `functions` functions, and `all`, which links them."""
    names = [f"part{number:02d}" for number in range(files)]
    for number, name in enumerate(names):
        draw = random.Random(seed * 1000 + number)
        text = "#include <stddef.h>\n" + "".join(_functions(draw, functions, f"{name}_f"))
        (directory / f"{name}.c").write_text(text)
    calls = "".join(f"  v += {name}_f0(&(struct {name}_f0s){{0}}, v, text);\n" for name in names)
    shapes = "".join(
        f"struct {name}_f0s {{ long a, b; double c[4]; struct {name}_f0s *next; }};\n"
        f"long {name}_f0(struct {name}_f0s *p, long x, const char *t);\n"
        for name in names
    )
    (directory / "main.c").write_text(
        f'#include <stdio.h>\n{shapes}int main(void)\n{{\n  static const char text[4096] = "some";\n'
        f'  long v = 1;\n{calls}  printf("%ld\\n", v);\n  return 0;\n}}\n'
    )
    objects = " ".join(f"{name}.o" for name in [*names, "main"])
    (directory / "Makefile").write_text(
        f"OBJECTS := {objects}\nall: program\nprogram: $(OBJECTS)\n\tgcc -o $@ $^\n"
        "%.o: %.c\n\tgcc -O0 -c -o $@ $<\nclean:\n\trm -f program $(OBJECTS)\n"
    )


def _functions(draw: random.Random, count: int, prefix: str) -> Iterator[str]:
    for number in range(count):
        name = f"{prefix}{number}"
        yield f"struct {name}s {{ long a, b; double c[4]; struct {name}s *next; }};\n"
        yield f"long {name}(struct {name}s *p, long x, const char *t)\n{{\n  long v = x ^ {draw.getrandbits(30)}L;\n"
        for step in range(12):
            a, b, c = (draw.randrange(1, 1000) for _ in range(3))
            yield (
                f"  for (long i = {step}; i < v % {a}; i++) {{\n"
                f"    if (t[i & 4095] > {b % 100}) p->a += i * {c}; else p->b ^= v + {b};\n"
                f"    p->c[i & 3] += (double)v / {c}.0;\n  }}\n"
                f"  switch ((v + {step}) % 7) {{ case 0: v += {a}; break; case 1: v ^= p->a; break;"
                f" case 2: v -= {b}; break; case 3: p = p->next ? p->next : p; break; default: v *= {c}; }}\n"
            )
        if number:
            other = f"{prefix}{draw.randrange(number)}"
            yield f"  v += {other}(&(struct {other}s){{0}}, v, t);\n"
        yield "  return v;\n}\n"


def _sentences(draw: random.Random, count: int, words: int, vocabulary: int) -> Iterator[list[str]]:
    """Yield sentences of words that are as often as those of a language: the second half as often as the first."""
    known = ["".join(draw.choices(_LETTERS, k=draw.randint(2, 9))) for _ in range(vocabulary)]
    weights = [1 / (place + 2) for place in range(vocabulary)]
    for _ in range(count):
        yield draw.choices(known, weights, k=words)
