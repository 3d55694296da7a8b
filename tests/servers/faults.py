"""How the planted server errs: functions of its handler by name, and ways to spoil what it says of given tokens."""

from __future__ import annotations

import contextlib
import json
import socket
import time


def _replied(status, value, **headers):
    """An answer of this status and JSON."""
    return lambda handler: handler.reply(status, json.dumps(value).encode(), "application/json", **headers)


def _said(content):
    """An answer of these bytes."""
    return lambda handler: handler.reply(200, content, "application/json")


def _torn(promised, pieces, pause=0.0):
    """An answer of which less comes than is promised."""

    def tear(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(promised))
        handler.end_headers()
        with contextlib.suppress(OSError):
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
                time.sleep(pause)
        handler.close_connection = True

    return tear


def _reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


_HOSTILE = "\x1b]0;owned\x07\u202e<script>alert(1)</script>" * 100
FAULTS = {
    "busy": _replied(429, {"error": {"message": "slow down"}}, Retry_After="0.2"),
    "busy long": _replied(429, {"error": {"message": "come back tomorrow"}}, Retry_After="86400"),
    "broken": _replied(500, {"detail": "it broke"}),
    "refused": _replied(400, {"error": {"message": "this prompt is too long"}}),
    "redirect": _replied(307, {}, Location="http://127.0.0.1:9/v1/chat/completions"),
    "half": _torn(4000, [b'{"choices": [{"mess']),
    "reset": _reset,
    "drip": _torn(4000, [b" "] * 400, pause=0.05),
    "garbage": _said(b'{"choices": [{"message": NaN'),
    "deep": _said(b"[" * 100_000),
    "huge": _torn(2**31, [b"x" * 2**16] * 2**15),
    "other": _replied(200, {"choices": "none"}),
    "hostile": _replied(422, {"error": {"message": _HOSTILE}}),
    "filtered": _replied(200, {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}),
}


def _last(change):
    """The rows with their last one changed."""
    return lambda rows: [*rows[:-1], {k: v | change for k, v in rows[-1].items()}]


WRONG = {
    "": lambda rows: rows,
    "none": lambda rows: None,
    "short": lambda rows: rows[:-1],
    "long": lambda rows: [*rows, rows[-1]],
    "other token": lambda rows: [*rows[:-1], {"5": {"logprob": -0.1, "rank": 1}}],
    "no rank": lambda rows: [*rows[:-1], {k: {"logprob": -0.1} for k in rows[-1]}],
    "rank 0": _last({"rank": 0}),
    "text": _last({"logprob": "\x1b]0;owned\x07"}),
    "null": _last({"logprob": None}),
    "nan": _last({"logprob": float("nan")}),
    "positive": _last({"logprob": 3.0}),
    "contradiction": _last({"rank": 2}),
}
