"""What a person types: one file a command of starter.py, and beside them what several commands share."""
