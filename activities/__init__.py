"""The steps of a deletion, one file each, and what they work with: the ledger, the backend's rows, the stores."""
