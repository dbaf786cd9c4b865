"""The audit as one HTML page: counts, findings, and the images they are about side by side.

The page holds everything itself, runs no script and asks no server for anything; the policy in its
head forbids it. It shows case and group names and no paths.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd
from PIL import Image

from medshadow.data.audit import AuditReport
from medshadow.data.cases import CaseTable
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

SHOWN = 200
"""Sets of images shown of each kind of finding; the CSV and JSON files hold all."""

_SIDE = 224
_FACTS = ("age", "sex", "localization", "keywords", "dx_type")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid #ccc }
td.number { text-align: right }
section.set { border-top: 1px solid #ccc; padding: .75rem 0 }
section.set p { margin: 0 0 .5rem }
div.images { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; width: 224px }
figure img { display: block; max-width: 224px; background: #000 }
figcaption { font-size: 13px; overflow-wrap: anywhere }
.apart { color: #a00000; font-weight: 600 }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Audit of {name}</title>
<style>{style}</style>
</head>
<body>
<h1>Audit of {name}</h1>
<p>{images} images, {groups} groups. Research use only; not a medical device.</p>
<h2>Findings</h2>
{summary}
<h2>Counts</h2>
{counts}
{sets}
</body>
</html>
"""


def audit_page(report: AuditReport, table: CaseTable) -> str:
    """The report as HTML with thumbnails of what it found.

    Args:
        report: what ``audit`` found.
        table: the table that was audited; its images are read again for the thumbnails.

    Example:
        >>> import tempfile
        >>> from medshadow.data import audit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.linear_gradient("L").save(f"{folder}/a.png")
        ...     Image.linear_gradient("L").save(f"{folder}/b.png")
        ...     cases = CaseTable(pd.DataFrame({
        ...         "case_id": ["a", "b"], "image": [f"{folder}/a.png", f"{folder}/b.png"],
        ...         "group": ["eye<1>", "eye<2>"], "label": ["N", "G"]}))
        ...     page = audit_page(audit(cases, progress=False), cases)
        >>> page.count("<img"), "eye&lt;1&gt;" in page, folder in page
        (4, True, False)
    """
    rows = table.frame.set_index("case_id")
    kinds: list[tuple[str, list[tuple[Sequence[str], str]]]] = [
        (
            "The same lesion or eye in several groups",
            [((p.first, p.second), p.evidence.words) for p in report.near_duplicates or ()],
        ),
        ("Identical files", [(cases, "") for cases in report.same_file]),
        ("Other files with identical pixels", [(cases, "") for cases in report.same_pixels]),
        ("Duplicates with different labels", [(cases, "") for cases in report.label_conflicts]),
        ("Near black or flat", [((c,), "") for c in sorted({*report.near_black, *report.flat})]),
        ("Odd ages", [((case,), "") for case in report.odd_ages]),
    ]
    return _PAGE.format(
        name=escape(table.name),
        style=_STYLE,
        images=len(table),
        groups=table.frame["group"].nunique(),
        summary=_table(report.summary()),
        counts=_table(report.counts),
        sets="\n".join(_kind(title, sets, rows) for title, sets in kinds if sets),
    )


def _kind(title: str, sets: list[tuple[Sequence[str], str]], rows: pd.DataFrame) -> str:
    more = f"<p>The first {SHOWN} of {len(sets)}.</p>" if len(sets) > SHOWN else ""
    shown = "\n".join(_set(cases, text, rows) for cases, text in sets[:SHOWN])
    return f"<h2>{escape(title)} ({len(sets)})</h2>\n{more}\n{shown}"


def _set(cases: Sequence[str], text: str, rows: pd.DataFrame) -> str:
    held = [rows.loc[case] for case in cases]
    apart = len({row["labels"] for row in held}) > 1
    notes = [escape(text)] if text else []
    notes += ['<span class="apart">labels differ</span>'] if apart else []
    said = f"<p>{'; '.join(notes)}</p>" if notes else ""
    figures = "\n".join(_figure(row) for row in held)
    return f'<section class="set">{said}<div class="images">\n{figures}\n</div></section>'


def _figure(row: pd.Series) -> str:
    case = escape(str(row.name))
    facts = [f"{name} {row[name]}" for name in _FACTS if name in row and _told(row[name])]
    lines = [f"group {row['group']}", " ".join(sorted(row["labels"])), ", ".join(facts)]
    caption = "<br>".join(escape(line) for line in lines if line)
    return (
        f'<figure><img src="{_thumbnail(row["image"])}" alt="{case}">'
        f"<figcaption><b>{case}</b><br>{caption}</figcaption></figure>"
    )


def _told(value: Any) -> bool:
    return not pd.isna(value) and str(value) not in ("", "unknown")


def _thumbnail(path: str) -> str:
    try:
        picture = Image.fromarray(read_image(path))
    except ImageReadError:
        # It may have gone since the audit; the page is about the others too.
        picture = Image.new("RGB", (_SIDE, _SIDE), "grey")
    picture.thumbnail((_SIDE, _SIDE), reducing_gap=2.0)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()


def _table(frame: pd.DataFrame) -> str:
    head = "".join(f'<th scope="col">{escape(str(column))}</th>' for column in frame.columns)
    body = "\n".join(f"<tr>{_cells(row)}</tr>" for row in frame.itertuples(index=False))
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"


def _cells(row: Iterable[Any]) -> str:
    cells = []
    for value in row:
        kind = "" if isinstance(value, str) else ' class="number"'
        cells.append(f"<td{kind}>{escape(str(value))}</td>")
    return "".join(cells)
