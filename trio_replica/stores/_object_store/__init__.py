"""The parts of the object store."""
