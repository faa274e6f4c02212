"""The report's style sheet: light and dark by the reader's setting, narrow screens, print."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1d2126; --soft: #5d6672; --line: #dfe2e6; --card: #ffffff;
  --accent: #1467b8; --bar: #a9cdf0; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #98a2ae; --line: #2d333b;
  --card: #1b1f25; --accent: #6cb2f5; --bar: #24517c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 0.95rem; margin: 1.25rem 0 0.25rem; }
.lead { color: var(--soft); max-width: 75ch; margin: 0.25rem 0 0.75rem; }
nav a { color: var(--accent); margin-right: 1.25rem; text-decoration: none; }
nav a:hover { text-decoration: underline; }
.source, .empty { color: var(--soft); margin: 0 0 0.5rem; font-size: 0.87rem; }
.tiles { list-style: none; display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 0.75rem;
  padding: 0; margin: 0 0 1.5rem; }
.tiles li { display: flex; flex-direction: column; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: 0.75rem 1rem; }
.tiles .what { color: var(--soft); font-size: 0.87rem; }
.tiles .value { font-size: 2rem; line-height: 1.2; font-weight: 600; font-variant-numeric: tabular-nums; }
.tiles .note { color: var(--soft); font-size: 0.8rem; }
.scroll { overflow-x: auto; margin-bottom: 1.75rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; }
th, td { padding: 0.25rem 0.75rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: middle; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 500; font-size: 0.84rem; }
thead th + th, thead td + th { text-align: right; }
tbody th { font-weight: 400; white-space: nowrap; }
td.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.num b { display: inline-block; min-width: 3em; font-weight: inherit; }
td.none { color: var(--soft); }
.compact th, .compact td { padding-left: 0.4rem; padding-right: 0.4rem; }
.bar { display: inline-block; vertical-align: middle; width: clamp(40px, 9vw, 130px); height: 0.6rem;
  margin-right: 0.6rem; border-radius: 2px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--accent); }
.swatch { display: inline-block; width: 0.75rem; height: 0.75rem; border-radius: 2px; margin-right: 0.5rem;
  vertical-align: -1px; box-shadow: inset 0 0 0 1px rgb(128 128 128 / 50%); }
.facts { width: auto; }
.facts th { color: var(--soft); vertical-align: top; }
.facts pre { margin: 0; padding: 0; border: 0; background: none; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.75rem 1rem;
  overflow-x: auto; font: 13px/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; margin: 0.25rem 0 0; }
figure { margin: 0 0 1.25rem; }
figcaption { font-size: 0.9rem; margin-bottom: 0.3rem; }
figcaption span { color: var(--soft); }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 0.5rem; }
.panels img { display: block; width: 100%; height: auto; border-radius: 4px; }
.panels span { color: var(--soft); font-size: 0.8rem; }
.legend span { display: inline-block; margin: 0 1.1rem 0.2rem 0; white-space: nowrap; font-size: 0.87rem; }
.legends summary { cursor: pointer; color: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; margin-top: 0.75rem; }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem 0.75rem;
  margin: 0; }
.chart.wide { grid-column: 1 / -1; }
@media (max-width: 800px) { .charts { grid-template-columns: 1fr; } tbody th { white-space: normal; } }
.chart svg { display: block; width: 100%; height: auto; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .tick { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg path { fill: none; stroke: var(--accent); stroke-linejoin: round; }
svg .raw { stroke-width: 1; opacity: 0.35; }
svg .smooth { stroke-width: 2.2; }
svg .last { fill: var(--accent); }
input[name="axis"] { accent-color: var(--accent); }
input[name="axis"] + label { margin-right: 1rem; font-size: 0.9rem; }
#axis-linear:checked ~ .charts .log, #axis-log:checked ~ .charts .linear { display: none; }
@media print { nav, input[name="axis"], input[name="axis"] + label { display: none; } section { break-inside: auto; }
  figure, tr { break-inside: avoid; } }
"""
