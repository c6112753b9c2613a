"""Verification of a clone against its source."""

from hyperclone_cli.verifier.report import Report
from hyperclone_cli.verifier.run import verify

__all__ = ["Report", "verify"]
