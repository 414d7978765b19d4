# SPDX-License-Identifier: Apache-2.0
"""`python -m tmem.daemon`: the daemon without the rest of the command line.

Owns: nothing. Called by people and by tests. Calls start.
"""

from __future__ import annotations

import argparse
import sys

from tmem.daemon import start
from tmem.errors import TmemError


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tmem.daemon", description="The host: leases memory to guests.")
    start.add_arguments(parser)
    try:
        return start.run(parser.parse_args())
    except (TmemError, OSError) as error:
        sys.stderr.write(f"tmem daemon: {error}\n")
        return 125


sys.exit(_main())
