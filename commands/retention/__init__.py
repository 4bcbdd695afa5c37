"""How long artifacts are kept: policies, what has expired by them, and its deletion."""
