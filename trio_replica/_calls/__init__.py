"""Calling several stores at once: starting calls, hedging late ones, and threads for stores that block."""
