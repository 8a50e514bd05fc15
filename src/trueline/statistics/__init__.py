"""What a least-squares line is worth: standard errors, intervals, and columns that depend."""
