"""What operators see of a running system: traces, metrics, structured logs; and the settings of a service.

| name | needs the extra |
|---|---|
| ``Tracing``, ``exporting`` | ``otel`` |
| ``Metrics`` | ``prometheus`` |
| ``init_tracing`` | ``logs`` |
| ``Settings`` | - |

Each name is imported when it is first used, so that a missing library matters to nobody else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from avx_events.observability.export import exporting
    from avx_events.observability.logs import init_tracing
    from avx_events.observability.metrics import Metrics
    from avx_events.observability.settings import SettingError, Settings
    from avx_events.observability.tracing import Tracing

__all__ = ["Metrics", "SettingError", "Settings", "Tracing", "exporting", "init_tracing"]

_MODULES: Final = {
    "Metrics": "metrics",
    "SettingError": "settings",
    "Settings": "settings",
    "Tracing": "tracing",
    "exporting": "export",
    "init_tracing": "logs",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
