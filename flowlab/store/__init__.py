"""Objects and records: the truth about what has been done. `flowlab.store.store.Store` is the door."""
