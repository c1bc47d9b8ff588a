"""What is fed in the background: queues and their workers, the outbox with its file, and its relay after a crash."""
