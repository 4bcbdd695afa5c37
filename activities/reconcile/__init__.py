"""The store's listing of a project beside its rows: what no row names, and what rows name in vain. It deletes nothing."""
