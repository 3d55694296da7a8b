"""The worker process that trains a steering projection: one JSON line in, lines of progress and the record out.

In: {"config", "prompts", "out", "pair", "apart_from", "epochs"}. Out: {"done", "planned"} after each answer read, then
{"trained": record} or {"failed": reason, "hint"}. It ends when its input does, so it cannot outlive a killed parent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from specsafe.errors import UserError


def main() -> None:
    """Train what stdin asks for; whatever prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        say({"trained": _trained(asked, lambda done, planned: say({"done": done, "planned": planned}))})
    except UserError as error:
        say({"failed": error.message, "hint": error.hint})
    except Exception as error:  # reported to the parent, which turns it into one line for the user
        say({"failed": f"{type(error).__name__}: {error}"})
        raise


def _trained(asked: dict[str, Any], report: Any) -> dict[str, Any]:
    from specsafe.decoding.safety.projection import Apart, Pair
    from specsafe.decoding.safety.training import train

    projection = train(
        asked["config"],
        asked["prompts"],
        Path(asked["out"]),
        pair=Pair.model_validate(asked["pair"]),
        apart_from=[Apart.model_validate(a) for a in asked["apart_from"]],
        epochs=asked["epochs"],
        report=report,
    )
    return projection.model_dump(mode="json")


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
