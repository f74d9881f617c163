"""A run directory on disk: rows that are never lost and never written twice, and the steps of what is in flight.

`rows` is the stored form of a trajectory and how it is read, `journal` the steps, `store` all of a directory that is
written. Refuses to know how trajectories are made and what of a configuration matters.
"""

from tessy.adapters.store.journal import Journal, journal_beside, to_step
from tessy.adapters.store.rows import FAILED, KEPT, from_row, read_rows, read_trajectories, to_row
from tessy.adapters.store.store import Failure, Store, Totals

__all__ = [
    "FAILED",
    "KEPT",
    "Failure",
    "Journal",
    "Store",
    "Totals",
    "from_row",
    "journal_beside",
    "read_rows",
    "read_trajectories",
    "to_row",
    "to_step",
]
