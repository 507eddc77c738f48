"""The database's schema, step by step.

A new step: change engine/store/models.py, then from the repository's root

    python -c "from engine.store.session import write_migration; write_migration('0002', 'what changes')"

read and mend the file that this writes in versions/, and set HEAD to its revision.
"""

HEAD = "0006"
"""The newest revision. Kept here so that opening an up-to-date store needs no Alembic; a test compares."""
