"""The mathematics behind `recommend_queue_size`. It needs numpy, so it is imported only when it is called."""
