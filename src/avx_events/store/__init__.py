"""Append-only streams of events: the facade, its engines' interface, and the engine in memory."""
