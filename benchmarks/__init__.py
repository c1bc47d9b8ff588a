"""The costs of the library compared with other code (compare/), and the size of its queues (queueing/)."""
