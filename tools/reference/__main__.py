# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.reference` writes docs/reference; with `--check` it only names what is out of date."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tmem.cli.main import make_parser
from tools.reference.pages import command_page, make_pages

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs/reference"


def main() -> int:
    """Write or compare the pages; return 1 where some are out of date."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is out of date")
    check = parser.parse_args().check
    pages = make_pages(ROOT / "python/tmem") | {"command-line.md": command_page(make_parser())}
    stale = sorted(path.name for path in TARGET.glob("*.md") if path.name not in pages)
    for name, text in pages.items():
        path = TARGET / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            TARGET.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if check and stale:
        print(f"out of date in docs/reference: {', '.join(stale)}; run `make docs`")
        return 1
    for name in set(stale) - set(pages) if not check else ():
        (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
