"""The steps, one file each, named for their activities."""
