"""The event store in a SQLite file, with nothing but the standard library."""
