"""The REST service over `rl2ml_core`. Run it with `python -m app` or `uvicorn app.main:app`."""

import os

# Before numpy loads: the matrices are small, and two BLAS threads on a busy machine turn half a millisecond into
# sixteen.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
