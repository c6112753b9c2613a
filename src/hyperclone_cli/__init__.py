"""Grow a pretrained language model into a larger one that computes the same function.

    from hyperclone_cli import clone_model, expand, plan, verify

`Request` and its `Mixing` are what can be asked for, `Access` is how the Hub is asked, and a `Progress` hears of the
steps. Each name is imported when it is first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperclone_cli.api import expand, plan
    from hyperclone_cli.growth.request import Request
    from hyperclone_cli.growth.strategies import Mixing
    from hyperclone_cli.hub.download import Access
    from hyperclone_cli.progress import Progress
    from hyperclone_cli.verifier import verify
    from hyperclone_cli.writing.in_memory import clone_model

__version__ = "0.1.0"
__all__ = ["Access", "Mixing", "Progress", "Request", "clone_model", "expand", "plan", "verify"]

_HOMES = {
    "Access": "hub.download",
    "Mixing": "growth.strategies",
    "Progress": "progress",
    "Request": "growth.request",
    "clone_model": "writing.in_memory",
    "expand": "api",
    "plan": "api",
    "verify": "verifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
