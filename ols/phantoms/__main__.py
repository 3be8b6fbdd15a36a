"""A worker of `write_phantoms`."""

import sys

from ols.phantoms.writing import run_worker

run_worker(*sys.argv[1:])
