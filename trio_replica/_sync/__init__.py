"""The stores that a put waits for and a get reads. Here a get is decided, and a missing copy is repaired."""
