"""The two processes that run beside the production service where it is deployed.

``relay`` publishes what is in the service's store to a broker; ``workers`` in any number handle it from there. Both
answer ``/health``, ``/ready`` and ``/metrics``, by ``edge``, and stop at SIGTERM.
"""
