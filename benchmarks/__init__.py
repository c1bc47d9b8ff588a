"""The costs of the library compared with other code (compare/), and the size of its queues (queueing/)."""

import os

# NumPy's threads, which it starts when it is imported, wait for each other longer than its small matrices take.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
