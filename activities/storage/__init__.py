"""What the steps read and write: the backend's rows, the ledger, the object store, the trace store."""
