"""What a command leaves: a folder of its own, results as JSON and as a table, predictions."""
