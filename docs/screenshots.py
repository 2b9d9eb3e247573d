"""Pictures of the terminal, the report and the dashboard for the documentation: ``make screenshots``.

They show a real search on the images of digits, in a folder that is deleted afterwards. The terminal is
kept as SVG, pages in the system's Chromium as PNG, in ``docs/images``. It takes some minutes on two cores.
"""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
HPO = (sys.executable, "-m", "hpo")
COLUMNS, ROWS = 100, 40
SIZES = {"": (1400, 900), "-narrow": (400, 1150)}  # of a page in pixels, by the end of the picture's name
COLORS = 128  # of a PNG: enough for pages without photographs
TRIALS = 12
SETS = ("train.limit=600", "train.image_size=16", "train.epochs=6", f"search.trials={TRIALS}")
FINISH = ("finish", "quickstart", "--top", "2", "--seeds", "3")
# What erases the live view before it is drawn again.
ERASED = re.compile(r"\r?(?:\x1b\[1A)?\x1b\[2K(?:\x1b\[1A\x1b\[2K)*")


def main() -> None:
    """Run the search and take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        place = Path(folder)
        photograph_terminal(place)
        photograph_report(place, chromium)
        photograph_dashboard(place, chromium)


def photograph_terminal(place: Path) -> None:
    """Run the search and its final evaluation in a terminal, then the verbs that show the results."""
    drawn = ERASED.split(
        in_terminal(place, "run", "quickstart", *(w for each in SETS for w in ("--set", each)))
    )
    headline = re.compile(rf"quickstart: [{TRIALS // 2}-9] of {TRIALS} trials")
    write_svg("run", "hpo run quickstart", next(frame for frame in drawn if headline.search(frame)))
    in_terminal(place, *FINISH)  # the second time it shows the result alone
    for words in (("status", "quickstart"), ("best", "quickstart", "-n", "2"), FINISH):
        write_svg(words[0], f"hpo {' '.join(words)}", in_terminal(place, *words))


def in_terminal(place: Path, *words: str) -> str:
    """Run a command in a terminal and return all that it writes there, with its control sequences.

    Raises:
        RuntimeError: The command fails.
    """
    terminal = pexpect.spawn(
        HPO[0],
        [*HPO[1:], *words],
        cwd=str(place),
        env=environment(),
        dimensions=(ROWS, COLUMNS),
        encoding="utf-8",
        timeout=None,
    )
    shown: str = terminal.read().replace("\r\n", "\n").replace(str(place), "~/first-search")
    terminal.close()
    if terminal.exitstatus:
        raise RuntimeError(f"hpo {' '.join(words)}: {shown}")
    return shown


def environment() -> dict[str, str]:
    """Return the variables of a user's terminal, without those of hpo."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    return {**kept, "TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONPATH": str(Path.cwd())}


def write_svg(name: str, command: str, shown: str) -> None:
    """Write what a terminal shows as a picture that loads no font from another host."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"$ {command}\n{shown.strip()}"))
    svg = console.export_svg(title="", unique_id=f"hpo-{name}")
    (IMAGES / f"{name}.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def photograph_report(place: Path, chromium: Browser) -> None:
    """Photograph the top and the curves of the report."""
    subprocess.run(
        [*HPO, "report", "quickstart", "-o", "report.html"], cwd=place, env=environment(), check=True
    )
    for page, end in pages(chromium):
        page.goto((place / "report.html").as_uri())
        page.wait_for_load_state("networkidle")
        write_png(page, f"report{end}")
        write_png(page.locator("section#curves"), f"curves{end}")


def photograph_dashboard(place: Path, chromium: Browser) -> None:
    """Photograph the page of the study and the overview of all studies."""
    with serving(place) as link:
        for page, end in pages(chromium):
            page.goto(link)
            photograph_study(page, f"dashboard{end}")
            page.goto(f"{link.partition('/?')[0]}/overview")
            write_png(page.locator("body"), f"overview{end}")


def photograph_study(page: Page, name: str) -> None:
    """Open the study from the list of studies, and photograph it when its figures are drawn."""
    page.get_by_text(re.compile(r"\d\. quickstart$")).click()
    for drawn in (".scatterlayer .points path", ".barlayer .point path"):
        page.locator(drawn).first.wait_for(state="attached")
    page.mouse.move(0, 0)  # a figure shows its tools while the pointer is on it
    write_png(page, name)


@contextlib.contextmanager
def serving(place: Path) -> Iterator[str]:
    """Serve the dashboard and return the link that opens it."""
    command = [*HPO, "dashboard", "--port", "0"]
    server = subprocess.Popen(command, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start the system's Chromium.

    Raises:
        SystemExit: There is none.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        sys.exit("no command 'chromium': install the Debian packages chromium and fonts-liberation")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def pages(chromium: Browser) -> Iterator[tuple[Page, str]]:
    """Yield a page of each size, with the end of its pictures' names."""
    for end, (width, height) in SIZES.items():
        page = chromium.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(120_000)
        yield page, end
        page.close()


def write_png(shown: Page | Locator, name: str) -> None:
    """Write what the window shows of a page, or a part of it, with few colours, as a small file."""
    taken: Any = Image.open(io.BytesIO(shown.screenshot(animations="disabled")))
    taken.convert("RGB").quantize(COLORS).save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
