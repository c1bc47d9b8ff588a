"""Stores and replicas from text: URLs, and the lines of a configuration file."""
