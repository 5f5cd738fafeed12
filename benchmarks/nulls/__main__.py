"""`python -m benchmarks.nulls SETS [RULE ...]`: measure the cells that are not there yet."""

import sys

from benchmarks.nulls.rules import table

if __name__ == "__main__":
    table(int(sys.argv[1]), tuple(sys.argv[2:]))
