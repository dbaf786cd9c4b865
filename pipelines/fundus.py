"""The whole way for ODIR-5K: audit, split, train, diagnose, index, look up.

python pipelines/fundus.py --data ODIR-5K --out runs/fundus [--config FILE]
"""

import typer

from medshadow.cli import guarded
from medshadow.cli.train import Config, Data, Out, Overwrite, Resume, Set, train_command


def fundus(
    data: Data,
    out: Out,
    config: Config = "fundus",
    resume: Resume = False,
    overwrite: Overwrite = False,
    values: Set = None,
) -> None:
    """Audit, split, train, diagnose, index, and look one eye up.

    Example: python pipelines/fundus.py --data ODIR-5K --out runs/fundus --set max_epochs=8
    """
    train_command(data, out, config, resume, overwrite, values)


if __name__ == "__main__":
    guarded(lambda: typer.run(fundus))
