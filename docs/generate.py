"""Make the pages that come from tables: cli.md, models.md, datasets.md, metrics.md.

python docs/generate.py            write them
python docs/generate.py --check    fail if one is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent


def command_line() -> str:
    """docs/cli.md from the command tree."""
    import typer
    from typer.cli import get_docs_for_click

    from fmcache.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="fmcache"), name="fmcache")
    head, rest = text.split("\n", 1)
    return f"{head}\n{(DOCS / 'cli_preface.md').read_text(encoding='utf-8')}{rest}"


def pages() -> dict[str, str]:
    """File name → content of every generated page."""
    from fmcache.analyze.metrics_page import metrics_page
    from fmcache.extract.datasets_page import datasets_page
    from fmcache.extract.models_page import models_page

    made = {
        "cli.md": command_line(),
        "models.md": models_page(),
        "datasets.md": datasets_page(),
        "metrics.md": metrics_page(),
    }
    return {name: text.rstrip() + "\n" for name, text in made.items()}


def main() -> int:
    """Write the pages, or with --check compare them; 1 if one is stale."""
    check = "--check" in sys.argv[1:]
    stale = []
    for name, text in pages().items():
        path = DOCS / name
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"Stale: {', '.join(stale)}.\nThey are made from tables in the code.\nType: make docs")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
