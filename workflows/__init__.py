"""What runs in which order, and what an operator sees of it. Nothing in here talks to a database or a store."""
