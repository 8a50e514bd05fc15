"""What is seen while a command runs: a bar, or lines, or nothing once nobody reads."""
