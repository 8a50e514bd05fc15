"""`trueline sweep`: many trainings that differ in some options, and which of them is the best."""
