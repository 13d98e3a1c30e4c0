"""Where store and bus meet: commands and queries, aggregates, projections."""
