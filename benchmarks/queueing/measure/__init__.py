"""Real measurements: the service times of a real store, and a real replica on it in real time."""
