"""Delivery in the background: queues where a put waits for room, and an outbox with relays that survives a crash."""
