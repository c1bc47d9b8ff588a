"""The parts of the retrying store."""
