# SPDX-License-Identifier: Apache-2.0
"""The report's style sheet: one column for reading, two for pictures where the screen has room; light, dark, print."""

from t5x_like.scaling.report.palette import DARK, LIGHT


def _variables(colours: dict[str, str], more: str) -> str:
    named = "".join(f"--{name}: {colours[name]}; " for name in ("paper", "ink", "muted", "accent"))
    return f"{named}--rule: {colours['grid']}; {more}"


_LIGHT = _variables(LIGHT, "--back: #f3f4f6; --warn: #fff8eb; --warn-edge: #d97706; --fine: #f2faf5;")
_DARK = _variables(DARK, "--back: #0e1013; --warn: #2b2216; --warn-edge: #d97706; --fine: #14241b;")

CSS = (
    f":root {{ {_LIGHT} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}\n"
    + """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 3rem; background: var(--paper); }
h1 { font-size: clamp(1.2rem, 2.6vw, 1.7rem); line-height: 1.4; margin: 0 0 1.5rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 sup { font-size: .6em; line-height: 0; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; font-weight: 600; }
h3 { font-size: .95rem; margin: 1.4rem 0 .4rem; font-weight: 600; }
section { margin: 2.6rem 0 0; }
ul { margin: 0; padding-left: 1.1rem; }
li { margin: .35rem 0; max-width: 48rem; overflow-wrap: break-word; }
.lead { color: var(--muted); margin: 0 0 .4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
.tiles div { border-top: 3px solid var(--accent); padding-top: .5rem; }
.tiles b { display: block; font-size: 1.6rem; font-weight: 600; line-height: 1.25; }
.tiles span { color: var(--muted); font-size: .875rem; line-height: 1.4; display: block; }
.warnings { background: var(--warn); border-left: 4px solid var(--warn-edge); padding: 1rem 1.25rem;
  border-radius: 0 4px 4px 0; }
.fine { border-left: 4px solid #15803d; padding: .1rem 1.25rem; background: var(--fine); border-radius: 0 4px 4px 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 2rem; }
.pictures > :only-child { max-width: 52rem; }
.pictures:not(:last-child) { margin-bottom: 1.4rem; }
figure { margin: 0; min-width: 0; }
.chart img { width: 100%; height: auto; display: block; border-radius: 3px; background: #fff; }
.chart.live img { display: none; }
figcaption, .note { color: var(--muted); font-size: .9rem; margin: .5rem 0 0; max-width: 52rem; }
figcaption b { color: var(--ink); }
.files { font-size: .8rem; opacity: .85; white-space: nowrap; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
td small { display: block; color: var(--muted); font-size: .78rem; font-style: normal; }
th:first-child, td:first-child { text-align: left; }
td { max-width: 24rem; overflow: hidden; text-overflow: ellipsis; }
tr.beyond td { color: var(--muted); font-style: italic; }
summary { cursor: pointer; margin: .6rem 0; }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--back); padding: 1rem 1.25rem; margin: 0;
  border-radius: 4px; font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0 0 1rem; font-size: .9rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  main { padding-top: 1.4rem; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
  .files { display: none; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; }
}
@media print {
  body, main { background: none; padding: 0; max-width: none; font-size: 10.5pt; }
  .chart.live img { display: block; } .plot, .files { display: none !important; }
  figure, tr, .tiles, .warnings { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; } .scroll { overflow: visible; } table { font-size: 8.5pt; }
}
"""
)
