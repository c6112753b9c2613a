"""Numbers with their units, as people write them."""

from __future__ import annotations

import re

from hyperclone_cli.errors import RequestError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def bytes_of(option: str, size: int | str) -> int:
    """What a size such as "512MB", or a number of bytes, is in bytes. Raises RequestError if it is none."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?) ?([KMGT]?B)?", str(size).upper())
    if not found:
        raise RequestError(f"{option} {size}: no size in bytes.", 'Use a size such as "5GB" or "512MB".')
    return round(float(found[1]) * _BYTES[found[2] or "B"])


def number_of(option: str, number: int | str, what: str) -> int:
    """What a number such as "1.3B", of parameters or tokens, is. Raises RequestError if it is none, or above 10^15."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?) ?([KMBT]?)", str(number).upper())
    count = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not 1 <= count <= 10**15:
        raise RequestError(f"{option} {number}: expected a number of {what} such as 1.3B.")
    return count
