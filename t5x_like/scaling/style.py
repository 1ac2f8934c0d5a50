# SPDX-License-Identifier: Apache-2.0
"""The report's style sheet: one column for reading, two for pictures where the screen has room."""

CSS = """
:root { --ink: #22262b; --muted: #667079; --rule: #e2e6ea; --accent: #c2410c; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f7; color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 3rem; background: var(--paper); }
h1 { font-size: clamp(1.2rem, 2.6vw, 1.7rem); line-height: 1.3; margin: 0 0 1.5rem; font-weight: 600;
  font-variant-numeric: tabular-nums; }
h1 sup { font-size: .6em; }
h2 { font-size: 1.15rem; margin: 0 0 .7rem; font-weight: 600; }
section { margin: 2.4rem 0 0; }
ul { margin: 0; padding-left: 1.1rem; }
li { margin: .35rem 0; max-width: 48rem; }
.lead { color: var(--muted); margin: 0 0 .4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1rem; }
.tiles div { border-top: 3px solid var(--accent); padding-top: .5rem; }
.tiles b { display: block; font-size: 1.6rem; font-weight: 600; line-height: 1.25; }
.tiles span { color: var(--muted); font-size: .875rem; line-height: 1.4; display: block; }
.warnings { background: #fff8eb; border-left: 4px solid #d97706; padding: 1rem 1.25rem; border-radius: 0 4px 4px 0; }
.fine { border-left: 4px solid #15803d; padding: .1rem 1.25rem; background: #f2faf5; border-radius: 0 4px 4px 0; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption, .note { color: var(--muted); font-size: .9rem; margin-top: .5rem; max-width: 52rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .9rem .3rem 0; white-space: nowrap; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--muted); vertical-align: bottom; }
td small { display: block; color: var(--muted); font-size: .78rem; font-style: normal; }
th:first-child, td:first-child { text-align: left; }
tr.beyond td { color: var(--muted); font-style: italic; }
summary { cursor: pointer; margin-bottom: .6rem; }
.sample { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f7; padding: 1rem 1.25rem; margin: 0;
  border-radius: 4px; font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; margin: 0; font-size: .9rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; } }
@media print { body, main { background: none; padding: 0; } }
"""
