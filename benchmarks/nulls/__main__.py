"""`python -m benchmarks.nulls SETS [RULE ...]`: measure the cells that are not there yet, on SETS data sets at most."""

import sys

from benchmarks.nulls.cells import table

if __name__ == "__main__":
    table(int(sys.argv[1]), tuple(sys.argv[2:]))
