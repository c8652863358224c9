"""Does the advice hold up in training? Tiny transformers, three tasks, reinforcement learning with a verifier.

`python -m benchmarks.evidence.models.run` trains every run of `settings.py` that is not there yet, and reports.
"""

import os

# Before torch is imported: there is one process per core, and the matrices are small.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"
