"""A WSGI application that says which worker answered, and how many requests all have answered.

The count is in memory that the workers share, made before they were forked (gunicorn --preload).
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from typing import Any

_answered = multiprocessing.Value("Q", 0)


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    with _answered.get_lock():
        _answered.value += 1
        count = _answered.value
    body = json.dumps({"worker": os.getpid(), "requests": count}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
