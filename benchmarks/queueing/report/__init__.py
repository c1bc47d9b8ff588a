"""The report: what was found, as an HTML page of charts and sentences, as tables and as JSON."""
