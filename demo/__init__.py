"""A whole backend on one machine, for `make demo` and the tests. No part of the running service."""
