"""All that knows the backend's tables, columns, key layout and files. contract.py says what a deletion needs of them."""
