# SPDX-License-Identifier: Apache-2.0
"""Live curves of runs, or of a sweep's cells, in the terminal or in a browser.

python scripts/watch.py runs/small runs/wider
python scripts/watch.py runs/quickstart --metric=grad_norm
python scripts/watch.py runs/small --serve

--serve shows the same on http://localhost:8877, to this machine alone, until ctrl-C. In a terminal it ends as runs do.
"""

import http.server
import json
import threading
import time
from base64 import b64decode
from collections.abc import Sequence
from functools import partial
from gzip import decompress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from t5x_like.command_line import Parser
from t5x_like.errors import UserError, exit_with
from t5x_like.reporting import draw_plotly
from t5x_like.reporting.watching import Watched, as_json, braille, newest, watched
from t5x_like.reporting.wording import figure

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta")
ENDED = ("finished", "diverged", "interrupted")
HEIGHT = 14
PAGE = Path(__file__).with_name("watch.html")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="*", metavar="DIR", help="run folders, or a sweep's folder")
    parser.add_argument("--metric", default="loss", help="a field of metrics.jsonl (default: %(default)s)")
    parser.add_argument("--every", type=float, default=2.0, metavar="S", help="seconds between looks (default: 2)")
    parser.add_argument("--most", type=int, default=8, metavar="N", help="runs shown at a time (default: 8)")
    parser.add_argument("--once", action="store_true", help="look once, and end")
    parser.add_argument("--serve", type=int, nargs="?", const=8877, metavar="PORT", help="a page for a browser")
    flags = parser.read()
    if not flags.runs:
        parser.error("no folder is given; accepted: run folders, or a sweep's")
    if not flags.every > 0 or flags.most < 1:
        parser.error("--every and --most: expected numbers above 0")
    runs = watched(flags.runs)
    look(runs)
    if flags.serve is not None:
        serve(runs, flags)
    elif flags.once:
        Console().print(picture(newest(runs, flags.most), flags.metric, Console().width))
    else:
        with Live(refresh_per_second=4, screen=False) as live:
            while True:
                live.update(picture(newest(runs, flags.most), flags.metric, live.console.width))
                if all(run.status in ENDED for run in runs):
                    return
                time.sleep(flags.every)
                runs = [*runs, *(run for run in watched(flags.runs) if run.folder not in {r.folder for r in runs})]
                look(runs)


def look(runs: Sequence[Watched]) -> None:
    for run in runs:
        run.read()


def picture(runs: Sequence[Watched], metric: str, width: int) -> Group:
    """The curves, and a line for each run: where it is, its newest numbers and the time that is left."""
    curves = [run.curve(metric, "train") for run in runs]
    curves = [own if own[0] else run.curve(metric, "eval") for own, run in zip(curves, runs, strict=True)]
    values = [y for _, ys in curves for y in ys]
    if runs and not values:
        known = sorted({name for run in runs for line in run.lines for name in line})
        if known:
            raise UserError(f"--metric={metric}: no line has it; accepted: {', '.join(known)}")
    drawn = Text()
    for row, (letters, owners) in enumerate(braille(curves, max(20, width - 12), HEIGHT)):
        label = {0: max(values, default=0.0), HEIGHT - 1: min(values, default=0.0)}.get(row)
        drawn.append(f"{figure(label, 4) if label is not None and values else '':>10} ")
        for letter, owner in zip(letters, owners, strict=True):
            drawn.append(letter, COLOURS[owner % len(COLOURS)] if owner >= 0 else None)
        drawn.append("\n")
    table = Table(box=None, pad_edge=False)
    for title in ("run", "", "step", metric, "held-out loss", "tokens/s", "left"):
        table.add_column(title, justify="left" if title in ("run", "") else "right")
    for number, (run, (_, ys)) in enumerate(zip(runs, curves, strict=True)):
        _, scores = run.curve("loss", "eval")
        _, rates = run.curve("tokens_per_second", "train")
        table.add_row(
            Text(run.name, COLOURS[number % len(COLOURS)]),
            run.status,
            _step(run),
            figure(ys[-1], 4) if ys else "",
            figure(scores[-1], 4) if scores else "",
            f"{rates[-1]:,.0f}" if rates else "",
            _left(run, rates),
        )
    return Group(drawn, table)


def _step(run: Watched) -> str:
    if not run.lines:
        return ""
    of = f" of {run.total:,}" if run.total else ""
    return f"{run.lines[-1]['step']:,}{of}"


def _left(run: Watched, rates: Sequence[float]) -> str:
    """Time to the end at the newest rate."""
    if run.status in ENDED or not rates or not run.total:
        return ""
    last = run.lines[-1]
    if not last.get("tokens") or not last["step"]:
        return ""
    seconds = (run.total - last["step"]) * last["tokens"] / last["step"] / rates[-1]
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def serve(runs: list[Watched], flags: Any) -> None:
    """Answers a browser of this machine until ctrl-C."""
    handler = partial(_Handler, runs, flags)
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", flags.serve), handler)
    except OSError as error:
        raise UserError(f"--serve={flags.serve}: {error.strerror}; accepted: another port") from None
    print(f"http://localhost:{server.server_address[1]}", flush=True)
    with server:
        server.serve_forever()


class _Handler(http.server.BaseHTTPRequestHandler):
    """/ is the page, /plotly.js its library, /data.json the curves so far."""

    lock = threading.Lock()

    def __init__(self, runs: list[Watched], flags: Any, *args: Any):
        self.runs, self.flags = runs, flags
        super().__init__(*args)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer("text/html; charset=utf-8", PAGE.read_bytes())
        elif path == "/plotly.js":
            packed = draw_plotly.library()
            self._answer("text/javascript", b"" if packed is None else decompress(b64decode(packed)))
        elif path == "/data.json":
            with self.lock:
                known = {run.folder for run in self.runs}
                self.runs += [run for run in watched(self.flags.runs) if run.folder not in known]
                look(self.runs)
                content = as_json(newest(self.runs, self.flags.most), self.flags.metric)
            self._answer("application/json", json.dumps(content).encode())
        else:
            self.send_error(404, "no such page; there are /, /plotly.js and /data.json")

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a look every two seconds is no news."""


if __name__ == "__main__":
    exit_with(main)
