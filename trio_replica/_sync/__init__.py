"""The stores that a put waits for and a get reads.

This is where gets choose an answer and missing copies are repaired.
"""
