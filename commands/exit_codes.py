"""What a command's end says to a script."""

DONE, FAILED, BAD_USAGE, UNREACHABLE = range(4)
"""FAILED: failed or left over. UNREACHABLE: Temporal or the database cannot be used now."""
OUTPUT_LOST = 74
"""The output could not be written, as into a pipe that is closed or onto a disk that is full: EX_IOERR of sysexits.h."""
INTERRUPTED = 130
"""Ctrl-C, as shells say it."""
