# SPDX-License-Identifier: Apache-2.0
"""Show the committed bounds beside what is measured now; with --renew, commit to the new figures."""

from __future__ import annotations

import argparse

from tools import bounds


def main() -> int:
    """Measure, print, and renew when asked to."""
    parser = argparse.ArgumentParser(prog="python -m tools.bounds", description=__doc__)
    parser.add_argument("--renew", action="store_true", help=f"write what is measured now to {bounds.FILE.name}")
    renew = parser.parse_args().renew
    old = bounds.load() if bounds.FILE.exists() else {}
    new = {"compiler": {bounds.compiler(): 1.0}, "instructions": bounds.instructions(), **bounds.counters()}
    for section, figures in new.items():
        for name, now in figures.items():
            before = old.get(section, {}).get(name)
            change = f"{now / before - 1:+8.1%}" if before else ""
            print(f"{section:18} {name:18} {'' if before is None else before:>12} {now:>12} {change}")
    if renew:
        bounds.save(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
