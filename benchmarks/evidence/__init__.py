"""Does the advice hold up in training? Simulated training with metrics that are computed exactly.

`python -m benchmarks.evidence.run --full` runs every setting of `settings.py` and reports; `--quick` is a smoke test.
"""

import os

# Before numpy is imported: there is one process per core, and the matrices are small.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
