"""The edge: HTTP in, HTTP out. ``app`` has the routes; the other modules each do one thing for all of them."""
