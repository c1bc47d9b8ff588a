"""What a put waits for and what a get reads: the sync stores, their union, the fallback, and read repair."""
