"""What the library costs, beside other code (compare/), and how large its queues should be (queueing/)."""
