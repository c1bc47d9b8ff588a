"""The queueing model: what a queue of each size does, by recursion, by closed forms and in virtual time."""
