"""The workflow: the order of the steps, and all that crosses the wire."""
