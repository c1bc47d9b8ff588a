"""Making stores alike and sound again: reconcile and scrub."""
