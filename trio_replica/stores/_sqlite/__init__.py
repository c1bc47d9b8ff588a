"""What is behind the SQLite store."""
