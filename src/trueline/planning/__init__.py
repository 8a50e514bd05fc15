"""What is known of a training beforehand: where it ends, how fast, and the settings that suit."""
