"""The whole way for HAM10000: audit, split, train, diagnose, index, look up.

python pipelines/dermatology.py --data HAM10000 --out runs/dermatology [--config FILE]
"""

from __future__ import annotations

import typer

from medshadow.cli import guarded
from medshadow.cli.train import train_command

if __name__ == "__main__":
    guarded(lambda: typer.run(train_command))
