"""tests/field/run [--small] [--seconds S] [--save FILE] [--cache DIRECTORY] [NAME ...]

Downloads the packages (no code of theirs runs), checks every model beside onnxruntime, and prints the table.
NAME: part of a package's or file's name; by default all. Exit status 1 if a model does not load or its results differ.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tqdm import tqdm

from bench.runs import machine

from .check import Outcome, check, table
from .models import MODELS, PackageMissingError, fetch


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="tests/field/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--small", action="store_true", help="only the models that every run of the tests takes")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing per model; 0: none")
    parser.add_argument("--save", type=Path, help="also write the outcomes to this JSON file")
    parser.add_argument("--cache", type=Path, default=Path("build/field"), help="where downloaded models are kept")
    args = parser.parse_args()
    models = [
        m for m in MODELS if (m.small or not args.small) and (not args.names or any(name in f"{m.name} {m.file}" for name in args.names))
    ]
    outcomes: list[Outcome] = []
    with tqdm(models, unit="model", disable=None) as bar:
        for model in bar:
            bar.set_postfix_str(model.name)
            try:
                outcomes.append(check(model, fetch(model, args.cache), args.seconds))
            except PackageMissingError as error:
                print(f"skipped: {error}", file=sys.stderr)
    print(table(outcomes))
    if args.save:
        command = f"tests/field/run --seconds {args.seconds:g} --save {args.save}"
        environment = {**machine.describe([]), "command": command}
        record = {"schema": 1, "what": "field", "environment": environment, "models": [o.record() for o in outcomes]}
        args.save.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(any(o.error or not o.equal for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
