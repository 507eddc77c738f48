"""Alembic's entry: runs the migrations on the connection that engine.store.session gives it."""

from typing import Any, Literal

from alembic import context

from engine.store.models import Base, UtcDateTime


def render(kind: str, item: Any, _: Any) -> str | Literal[False]:
    """How a draft spells our own type, so that migrations do not depend on the models of a later day."""
    return "sa.DateTime()" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_item=render,
    # SQLite cannot alter most things in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
