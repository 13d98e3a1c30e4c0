"""What every layer is written in: events, metadata, policies, errors, clocks and the tasks that carry them."""
