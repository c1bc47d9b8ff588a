"""The queue-size laboratory: how large should ``queue_size`` be?"""
