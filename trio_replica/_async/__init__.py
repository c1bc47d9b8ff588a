"""Delivery in the background: queues and workers, the outbox with its file, and the relays of stores with a backlog."""
