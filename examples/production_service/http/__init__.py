"""The edge: HTTP in, HTTP out. ``app`` has the routes, the other modules do one thing each for all of them.

Nobody is asked who they are: put it behind something that does, and give ``avx_events.context(user_id=...)`` what that
found out, as ``correlation`` does with the correlation id.
"""
