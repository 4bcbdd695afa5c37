"""The ledger: what every deletion was asked, has done and still owes, in tables of ours beside the backend's.

Sealing keys here and deleting the rows that named them is one transaction, so that no crash, of Temporal neither, can lose a
key that is owed. Three rules hold in every file of this folder:

- **Fencing.** A cancel raises the deletion's fence; each attempt at collecting takes a new epoch of its chunk. A write to a
  chunk locks its row first, and stops if fence, epoch or state are no longer those it works under.
- **Compare and swap.** A page changes only if it still holds the keys that were read, and the chunk's counts change with it in
  one transaction: sealed = deleted + absent + kept + the keys that are still in pages.
- **One order of locks**: the holds, the deletion's row, the chunk's, the backend's rows, the pages, the files.

A statement stands beside the function that runs it, made once: SQLAlchemy takes longer to put one together than to run it. Its
parameters `of`, `of_chunk` and `of_fence` say which deletion, chunk and life of it a statement is about.
"""
