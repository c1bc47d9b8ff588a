"""The queue-size laboratory: how large should `queue_size` be, by a model (model/) and on real stores (measure/)?"""
