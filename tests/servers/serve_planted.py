"""The planted server as a program, for arms that start their own: `python serve_planted.py --port N [option value]…`.

It answers the starter battery well. --say text: prints it first. --die code: ends there. --late seconds: answers later.
--child file: starts a process in a session of its own that lives on, and writes its id there. --host address.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from planted import Plan, Planted

from specsafe.battery import load_battery
from specsafe.screen.controls import STAND_IN

SAYS = {"refuse": STAND_IN["over_refusal"], "comply": STAND_IN["harmful_compliance"]}


def main() -> None:
    """Serve until the process is ended."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--host", default="127.0.0.1")
    options.add_argument("--drafts", type=int, default=0)
    options.add_argument("--say", default="")
    options.add_argument("--die", type=int)
    options.add_argument("--late", type=float, default=0)
    options.add_argument("--child", default="")
    options.add_argument("--starts", default="")
    given = options.parse_args()
    print(given.say, flush=True)
    if given.starts:
        with Path(given.starts).open("a") as stream:
            stream.write(f"{given.drafts}\n")
    if given.child:
        lives_on = [sys.executable, "-c", "import time; time.sleep(600)"]
        Path(given.child).write_text(str(subprocess.Popen(lives_on, start_new_session=True).pid))
    if given.die is not None:
        sys.exit(given.die)
    time.sleep(given.late)
    answers = {i.prompt: SAYS.get(i.expect) or (i.answers or ("",))[0] for i in load_battery("starter").items}
    plan = Plan(answers=answers, led=SAYS["comply"], drafts=given.drafts)
    Planted(plan, given.port, given.host).serve_forever()


if __name__ == "__main__":
    main()
