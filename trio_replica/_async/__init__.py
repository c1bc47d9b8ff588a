"""Delivery in the background: the queue where a put waits for room, and the outbox and relay that replay a crash."""
