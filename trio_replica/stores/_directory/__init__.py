"""The parts of the directory store."""
