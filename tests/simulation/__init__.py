"""A deterministic simulation: one seed draws stores, traffic, faults and crashes, and what is promised is checked.

``python -m tests.simulation --seeds 0:2000`` runs seeds; one that fails prints itself and what happened.
"""
