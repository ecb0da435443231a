"""Make docs/images/demo.png: the top of the page that `regsim demo` writes, as a browser shows it.

    python docs/make_demo_picture.py

Needs Chromium (or Chrome) on the PATH. Takes as long as the demo, and a few seconds.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from regsim.cli.app import run

PICTURE = Path(__file__).parent / "images" / "demo.png"
WIDTH, HEIGHT = 1280, 790
SAFE = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",
]


def screenshot(page: Path, target: Path, profile: Path) -> None:
    """What a browser window of the chosen size shows of a page."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        raise SystemExit("no chromium, chromium-browser or google-chrome on the PATH")
    place = [f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={target}"]
    subprocess.run([browser, *SAFE, *place, page.as_uri()], check=True, capture_output=True, timeout=120)


def main() -> None:
    """Run the demo, take the picture, and store it with 128 colours."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if run(["demo", "-o", str(folder / "demo")]) != 0:
            raise SystemExit("the demo failed")
        screenshot(folder / "demo" / "report.html", folder / "shot.png", folder / "profile")
        PICTURE.parent.mkdir(exist_ok=True)
        with Image.open(folder / "shot.png") as shot:
            shot.convert("RGB").quantize(128).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
