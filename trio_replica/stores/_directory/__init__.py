"""What is behind the directory store."""
