"""Shared images: which snapshots name them, and the way of one that none names: hidden, then purged or restored."""
