"""Comparisons: replicas and stores beside plain code (overhead, stores) and beside other libraries (peers)."""
