"""The migrations of the database, by Alembic; `trio-signal db upgrade` runs them."""
