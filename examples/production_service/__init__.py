"""An HTTP service for users and orders, event sourced: a model of how to build one with ``avx_events``.

    python -m examples.production_service

``README.md`` has its endpoints and settings, for those who call it; this is for those who read it.
One request on its way through the modules, from the edge to the core and back:

``http/`` reads it and dispatches a command · ``commands`` decides, with the aggregates of ``users``, ``orders`` and
``email_addresses``, and appends their events to the store · ``relay`` follows the store's log and publishes it to the
event bus, where ``welcome`` sends mails, with ``dead_letters`` for what fails · ``read_models`` follows the log as
well, and is what queries read · ``service`` puts the parts together, and ``__main__`` runs them until a signal comes.
"""
