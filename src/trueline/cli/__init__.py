"""The command `trueline`: a short entry, and behind it Lightning's CLI with our commands."""
