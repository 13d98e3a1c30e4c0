"""The event store in PostgreSQL, on asyncpg."""
