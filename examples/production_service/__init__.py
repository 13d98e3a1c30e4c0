"""An HTTP service for users and orders, event sourced: a model of how to build one with ``avx_events``.

    python -m examples.production_service

``README.md`` has its endpoints and settings, for those who call it; this is for those who read it.
One request on its way through the modules, from the edge to the core and back:

``http/`` reads it and dispatches a command · ``commands`` decides, with the aggregates of ``users``, ``orders`` and
``email_addresses``, and appends their events to the store · ``welcome`` sends mails: a handler that follows the store's
log, or the broker that a relay brings the log to · ``read_models`` follows the log as well, and is what queries read ·
``readiness`` looks at store and broker, ``reports`` says on the bus what the service does · ``service`` puts the parts
together, and ``serving`` runs them until a signal comes, in one process or, by ``workers``, in several. ``operating``
opens the handlers alone, for whoever gives dead letters back by the command line.
"""
