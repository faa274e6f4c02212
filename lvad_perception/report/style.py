"""The report's style sheet, for light and dark mode, narrow screens and print."""

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fbfbfa; --ink: #1d2126; --soft: #5d6672; --line: #dfe2e6; --card: #ffffff;
  --accent: #1467b8; --right: #0067a8; --wrong: #b8500f;
  --s0: #0067a8; --s1: #c2410c; --s2: #00805c; --s3: #a8457f; --s4: #8a6d00; --s5: #3f4a56; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6e9ed; --soft: #98a2ae;
  --line: #2d333b; --card: #1b1f25; --accent: #6cb2f5; --right: #5cb3f0; --wrong: #f59e4b;
  --s0: #5cb3f0; --s1: #f59e4b; --s2: #2fc79a; --s3: #ec9ac8; --s4: #e8d44d; --s5: #c2cad3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
h3 { font-size: 0.95rem; margin: 1.25rem 0 0.25rem; }
.lead { color: var(--soft); max-width: 75ch; margin: 0.25rem 0 0.75rem; }
nav { display: flex; flex-wrap: wrap; gap: 0.15rem 1.25rem; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible, .zoom input:focus-visible + img {
  outline: 2px solid var(--accent); outline-offset: 2px; }
.note { border-left: 3px solid var(--accent); padding-left: 0.75rem; margin: 0 0 0.75rem; max-width: 80ch;
  overflow-wrap: anywhere; }
.runs { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.5rem; padding: 0; margin: 0 0 0.75rem;
  font-size: 0.9rem; }
.key { width: 28px; height: 10px; margin-right: 0.5rem; }
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
.figures .bar { width: clamp(36px, 11vw, 190px); }
.line { display: block; line-height: 1.35; }
.line b { display: inline-block; min-width: 2.6em; font-weight: inherit; }
.line.best b { font-weight: 700; }
td.none, .line.none { color: var(--soft); }
.few { color: var(--soft); font-size: 0.8rem; }
.settings th + th, .settings thead td + th { text-align: left; }
.settings td { min-width: 8rem; overflow-wrap: anywhere; }
.compact th, .compact td { padding-left: 0.4rem; padding-right: 0.4rem; }
.bar { display: inline-block; vertical-align: middle; width: clamp(40px, 9vw, 130px); height: 0.6rem;
  margin-right: 0.6rem; border-radius: 2px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--look, var(--accent)); }
.s0 { --look: var(--s0); } .s1 { --look: var(--s1); } .s2 { --look: var(--s2); }
.s3 { --look: var(--s3); } .s4 { --look: var(--s4); } .s5 { --look: var(--s5); }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--accent); }
.matrix { width: auto; border-collapse: separate; border-spacing: 1px; }
.matrix th, .matrix td { border: 0; padding: 0.15rem 0.4rem; font-size: 0.82rem; }
.matrix thead th { text-align: left; vertical-align: bottom; padding: 0.2rem 0; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); white-space: nowrap; }
.matrix tbody th { position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
.matrix td[class] { text-align: right; min-width: 2.1rem; height: 1.6rem; font-variant-numeric: tabular-nums; }
.matrix td.wrong { background: color-mix(in srgb, var(--wrong) calc(var(--share, 0%) / 2), var(--card)); }
.matrix td.right { background: color-mix(in srgb, var(--right) calc(var(--share, 0%) / 2), var(--card));
  box-shadow: inset 0 0 0 1px var(--right); }
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
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); gap: 0.5rem; }
.frame { margin-bottom: 1.75rem; }
.frame figcaption span { display: block; overflow-wrap: anywhere; }
.frame .chips { display: inline; }
.chips i { display: inline-block; font-style: normal; font-size: 0.78rem; border: 1px solid var(--line);
  border-radius: 999px; padding: 0 0.55rem; margin-left: 0.35rem; }
.zoom { display: block; position: relative; cursor: zoom-in; }
.zoom input { position: absolute; opacity: 0; top: 0; left: 0; width: 1px; height: 1px; margin: 0; }
.zoom img { display: block; width: 100%; height: auto; border-radius: 4px; }
.zoom input:checked + img { position: fixed; inset: 0; z-index: 10; width: 100vw; height: 100vh; object-fit: contain;
  background: rgb(0 0 0 / 88%); border-radius: 0; cursor: zoom-out; }
.panels span { color: var(--soft); font-size: 0.8rem; }
.legend span { display: inline-block; margin: 0 1.1rem 0.2rem 0; white-space: nowrap; font-size: 0.87rem; }
.legends summary { cursor: pointer; color: var(--accent); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem;
  margin-top: 0.75rem; }
.charts.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.chart { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.6rem 0.75rem;
  margin: 0; }
.chart.wide { grid-column: 1 / -1; }
@media (max-width: 800px) { tbody th { white-space: normal; } .chart.wide .tick { font-size: 28px; }
  .chart.wide path.smooth { stroke-width: 5; } .chart.wide path.raw { stroke-width: 2; }
  .figures th, .figures td { padding-left: 0.35rem; padding-right: 0.35rem; } }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .tick { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
svg path { fill: none; stroke: var(--look, var(--accent)); stroke-linejoin: round; }
svg path.s1 { stroke-dasharray: 7 3; } svg path.s2 { stroke-dasharray: 2 2.5; }
svg path.s3 { stroke-dasharray: 9 3 2 3; }
svg path.s4 { stroke-dasharray: 4 2; } svg path.s5 { stroke-dasharray: 12 4; }
svg path.raw { stroke-dasharray: none; }
svg .raw { stroke-width: 1; opacity: 0.35; }
svg .smooth { stroke-width: 2.2; }
svg .last { fill: var(--look, var(--accent)); }
svg .mark { fill: var(--card); stroke: var(--look, var(--accent)); stroke-width: 2.5; }
input[name="axis"] { accent-color: var(--accent); }
input[name="axis"] + label { margin-right: 1rem; font-size: 0.9rem; }
#axis-linear:checked ~ .charts .log, #axis-log:checked ~ .charts .linear { display: none; }
@media print { :root { color-scheme: light; --paper: #ffffff; }
  .matrix th, .matrix td { font-size: 0.68rem; padding: 0.1rem 0.2rem; } .matrix td[class] { min-width: 1.5rem; }
  nav, input[name="axis"], input[name="axis"] + label { display: none; } section { break-inside: auto; }
  figure, tr { break-inside: avoid; } .scroll { overflow: visible; }
  .zoom input:checked + img { position: static; width: 100%; height: auto; }
  .bar i, .swatch, .matrix td { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
