"""What the library costs, beside what it is made of and beside others: ``python -m benchmarks``."""
