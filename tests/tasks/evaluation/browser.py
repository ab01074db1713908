"""Opens a page in a headless Chromium, and tells what it asked for over the network."""

import json
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium")

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # what the browser asks on its own account stays here
)
_BROWSER = "not an origin"  # initiator of what no page asked for


def requests_of(page: Path, *, folder: Path) -> list[str]:
    """Give the addresses that a page on this disk asked for; the browser's own requests are left out."""
    log = folder / "net-log.json"
    command = [
        str(CHROMIUM),
        *_FLAGS,
        f"--user-data-dir={folder / 'chromium'}",
        f"--log-net-log={log}",
        f"--screenshot={folder / 'page.png'}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    facts = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return [str(each["url"]) for each in facts if each.get("initiator", _BROWSER) != _BROWSER]
