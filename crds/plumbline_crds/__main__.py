"""`python -m plumbline_crds generate` writes the CRD manifests and the API reference; `check` finds stale ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from plumbline_crds.manifest import KINDS, render
from plumbline_crds.reference import api_reference

ROOT = Path(__file__).resolve().parents[2]


def generated_files() -> dict[Path, str]:
    """Path and content of everything that follows from the models."""
    files = {ROOT / "crds" / kind.file_name: render(kind) for kind in KINDS}
    files[ROOT / "docs" / "api.md"] = api_reference()
    return files


def stale_files() -> list[Path]:
    """The files whose content is not what the models give now."""
    return [
        path
        for path, content in generated_files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != content
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="plumbline_crds", description=__doc__)
    parser.add_argument("command", choices=["generate", "check"])
    if parser.parse_args().command == "generate":
        for path, content in generated_files().items():
            path.write_text(content, encoding="utf-8")
            print(path.relative_to(ROOT))
        return 0
    stale = stale_files()
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run `python -m plumbline_crds generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
