"""The database: runs, measurements, raw timings, logits and published results.

Importing it imports SQLAlchemy (0.2 s), so the rest of `engine` imports it only where it is used.
"""

from engine.store.session import Store, open_store
from engine.store.url import LockedError, journal, place, translate_errors

__all__ = ["LockedError", "Store", "journal", "open_store", "place", "translate_errors"]
