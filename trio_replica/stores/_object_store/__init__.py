"""What is behind the object store."""
