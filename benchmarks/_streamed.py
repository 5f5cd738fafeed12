"""One analysis of the streamed model, in a process of its own: `python -m benchmarks._streamed FOLDER ANALYSIS`."""

import json
import sys
from pathlib import Path

from benchmarks.streaming import analysed

print(json.dumps(analysed(Path(sys.argv[1]), sys.argv[2])))
