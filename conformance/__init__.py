"""The tests that an adapter must pass, as pytest classes to subclass: see docs/seams.md."""
