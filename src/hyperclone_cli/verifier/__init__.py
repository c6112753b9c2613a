"""Verification of a clone against its source.

What compares models is imported when it is first used: a plan only forecasts how it will be done.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperclone_cli.verifier.report import Report
    from hyperclone_cli.verifier.run import verify

__all__ = ["Report", "verify"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hyperclone_cli.verifier import report, run

    return report.Report if name == "Report" else run.verify
