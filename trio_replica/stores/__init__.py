"""The stores that come with the library."""
