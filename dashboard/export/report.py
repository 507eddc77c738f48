"""A run as one HTML file: headline, tables, takeaways, and interactive charts that work without a network. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from dashboard import figures
from dashboard.export import content, images
from dashboard.findings import headlines
from dashboard.run_rows import Row
from dashboard.style import DARK, FONT, LIGHT, Theme
from dashboard.tables import comparison, load, scorecard
from dashboard.tables import html as tables_html
from dashboard.tables.facts import notes_table
from engine.report import load as report_load
from engine.report import takeaways
from engine.report.load import JoinedLoad
from engine.store.rows import PublishedRow

WIDE = ("tradeoff", "roofline", "operators", "load-p99", "batches", "published")
"""The charts that take the whole width of the page."""


def build(
    summary: dict[str, Any],
    measured: Sequence[Row],
    reported: Sequence[PublishedRow],
    look: Theme | None = None,
    batch_size: int | None = None,
    loads: Sequence[JoinedLoad] = (),
) -> str:
    """The report of a run at `batch_size` or, if that is None, at the baseline's largest.

    It opens in `look` or, if that is None, in the appearance that the reader's system asks for. A button switches
    between light and dark. Printed pages are always light.
    `reported`: published results; `loads`: results under load, as `engine.report.load.joined` gives them.
    """
    rows = content.at(measured, batch_size)
    said = headlines.headline(rows) if rows else headlines.Headline("This run holds no measurements.", "")
    charts = content.charts(summary, measured, reported, LIGHT, batch_size, loads)
    found = takeaways.takeaways(rows)
    body = [
        _header(summary, said, rows),
        _looks(lambda theme: scorecard.scorecard(rows, theme)) if rows else "",
        _takeaways("What this run shows", [t for t in found if t.shown and t.kind not in ("state", "limit")]),
        _takeaways("Looked for, and not shown", [t for t in found if not t.shown]),
        _section("Charts", _charts(charts)) if charts else "",
    ]
    if charts:
        body.append(_section("What the figures carry", _looks(lambda theme: comparison.evidence(rows, theme))))
    if loads:
        words = f"<p>{escape(f'{report_load.headline(loads)} {report_load.doubt(loads)}'.strip())}</p>"
        table = _looks(lambda theme: load.variants(measured, loads, theme))
        body.append(_section("Under a service's load", words + table))
    if labels := scorecard.by_label(rows, LIGHT):
        body.append(_section("By label", _looks(lambda theme: scorecard.by_label(rows, theme)) if labels else ""))
    if limits := [(r.name, r.binds or "unknown", r.limits["sentence"]) for r in rows if r.limits]:
        body.append(_section("How near each comes to this device's limit", _plain(notes_table(limits))))
    if pairs := figures.pairs(rows, reported):
        remarks = dict.fromkeys(filter(None, (theirs.remark for _, theirs, _ in pairs)))
        below = "".join(f"<p class=small>{escape(remark)}</p>" for remark in remarks)
        title = f"What was published ({pairs[0][1].source})"
        body.append(_section(title, _plain(scorecard.published_table(pairs)) + below))
    if notes := headlines.notes(rows):
        body.append(_section("Notes", _plain(notes_table(notes))))
    body.append(_section("Method", f"<p>{escape(content.METHOD)}</p>"))
    body.append(_settings(summary))
    drawn = {theme.name: _drawings(summary, measured, reported, theme, batch_size, loads) for theme in (LIGHT, DARK)}
    script = f"const drawn={images.literal(json.dumps(drawn))},config={json.dumps(images.CONFIG)};{SCRIPT}"
    title = f"{summary['suite']} on {summary['device_name']}: {said.finding}"
    html = images.page(title, CSS, f"<main>{''.join(body)}</main>", script, plotly=bool(charts))
    return html if look is None else html.replace("<html ", f'<html data-theme="{look.name}" ', 1)


def _drawings(
    summary: dict[str, Any],
    measured: Sequence[Row],
    reported: Sequence[PublishedRow],
    look: Theme,
    batch_size: int | None,
    loads: Sequence[JoinedLoad],
) -> dict[str, Any]:
    made = content.charts(summary, measured, reported, look, batch_size, loads)
    return {name: json.loads(figure.to_json()) for name, figure in made.items()}


def _header(summary: dict[str, Any], said: headlines.Headline, rows: Sequence[Row]) -> str:
    status, reason = summary["status"], summary["status_reason"]
    state = "" if status == "finished" else f"This run is {status}{f': {reason}' if reason else ''}."
    began = (summary["created_at"] or "")[:16].replace("T", " ")
    which = f"Suite {summary['suite']}, run {summary['id']}, {began} UTC."
    lines = [said.detail, state, headlines.context(summary, rows), which]
    below = "".join(f"<p{' class=small' if n > 1 else ''}>{escape(line)}</p>" for n, line in enumerate(lines) if line)
    return f"<header><button type=button id=look hidden>Dark</button><h1>{escape(said.finding)}</h1>{below}</header>"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _takeaways(title: str, said: Sequence[takeaways.Takeaway]) -> str:
    if not said:
        return ""
    return _section(title, _plain(scorecard.sentences(headlines.told(said))))


def _charts(charts: dict[str, Any]) -> str:
    narrow = [name for name in charts if name not in WIDE]
    # A narrow chart without a partner takes the whole width, so that no half stays empty.
    wide = {*WIDE, *narrow[len(narrow) // 2 * 2 :]}
    boxes = "".join(
        f'<figure{" class=wide" if name in wide else ""} aria-label="{escape(images.alternative(figure))}">'
        f'<div id="chart-{name}" style="height:{figure.layout.height}px"></div></figure>'
        for name, figure in charts.items()
    )
    return f"<noscript><p>The charts need JavaScript; the tables hold their figures.</p></noscript>{boxes}"


def _looks(make: Callable[[Theme], str]) -> str:
    """A table in both appearances, as its marks contain their colours. The page shows one of the two."""
    return "".join(f"<div class=on-{theme.name}>{_plain(make(theme))}</div>" for theme in (LIGHT, DARK))


def _plain(table: str) -> str:
    """A table without its own style, as the page contains the style once."""
    return table.replace(f"<style>{tables_html.CSS}</style>", "")


def _settings(summary: dict[str, Any]) -> str:
    facts = {"suite": summary["spec"], "environment": summary["environment"]}
    text = escape(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
    return f"<section><details><summary>Suite and environment</summary><pre>{text}</pre></details></section>"


def _colours(look: Theme) -> str:
    names = ("background", "text", "muted", "line", "grid", "accent")
    other = DARK if look is LIGHT else LIGHT
    return "".join(f"--{name}:{getattr(look, name)};" for name in names) + f"--{look.name}:block;--{other.name}:none"


CSS = re.sub(
    r"\n\s*",
    "",
    f"""
:root{{color-scheme:light;{_colours(LIGHT)}}}
@media screen and (prefers-color-scheme:dark){{
:root:not([data-theme=light]){{color-scheme:dark;{_colours(DARK)}}}}}
@media screen{{:root[data-theme=dark]{{color-scheme:dark;{_colours(DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--background);color:var(--text);font:15px/1.45 {FONT.replace('"', "'")}}}
main{{max-width:1240px;margin:0 auto;padding:1.5rem 1.25rem 3rem}}
h1{{font-size:1.6rem;line-height:1.25;margin:0 0 .5rem;max-width:62rem}}
h2{{font-size:1.15rem;margin:2rem 0 .5rem}}
p{{margin:.25rem 0;max-width:72rem}}
.small{{font-size:.85rem;color:var(--muted)}}
header{{margin-bottom:1.2rem}}
#look{{float:right;margin:0 0 .5rem 1rem;font:inherit;font-size:.85rem;color:var(--text);
background:none;border:1px solid var(--line);border-radius:4px;padding:.15rem .6rem;cursor:pointer}}
.on-light{{display:var(--light)}}
.on-dark{{display:var(--dark)}}
section:has(figure){{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:.5rem 1.5rem}}
section:has(figure)>h2,section:has(figure)>noscript,.wide{{grid-column:1/-1}}
figure{{margin:0;min-width:0;break-inside:avoid}}
pre{{font-size:.78rem;overflow-x:auto;white-space:pre-wrap}}
summary{{cursor:pointer}}
{tables_html.CSS}
@media (max-width:960px){{section:has(figure){{grid-template-columns:minmax(0,1fr)}}}}
@media print{{
#look,details:not([open]){{display:none}}
main{{padding:0;max-width:none}}
:root{{font-size:10.5px}}
body{{font-size:1rem}}
section:has(figure){{display:block}}
tr,figure,li{{break-inside:avoid}}
figure{{zoom:.7}}
h2{{break-after:avoid}}
.ib-card .ib-sub{{font-size:.85em}}
.ib-card th,.ib-card td{{padding:.2rem .25rem}}
@page{{size:A4;margin:12mm}}}}
""",
)

# A printed chart has the width of the paper and light colours, whatever the screen shows.
SCRIPT = """
const root=document.documentElement,button=document.getElementById('look'),
  system=matchMedia('(prefers-color-scheme:dark)');
const dark=()=>root.dataset.theme?root.dataset.theme==='dark':system.matches;
function draw(name,width){
  for(const [key,figure] of Object.entries(drawn[name])){
    const layout={...figure.layout,width,autosize:!width};
    Plotly.react('chart-'+key,figure.data,layout,config);
    if(!width)Plotly.Plots.resize('chart-'+key);
  }
}
function show(){
  const name=dark()?'dark':'light';
  button.textContent=dark()?'Light':'Dark';
  draw(name);
}
button.hidden=false;
button.addEventListener('click',()=>{root.dataset.theme=dark()?'light':'dark';show()});
system.addEventListener('change',show);
addEventListener('beforeprint',()=>draw('light',1000));
addEventListener('afterprint',show);
show();
"""
