"""What is behind the PostgreSQL store."""
