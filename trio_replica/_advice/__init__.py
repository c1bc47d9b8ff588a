"""The mathematics behind `recommend_queue_size`.

It needs numpy, so it is imported only when that function is called.
"""
