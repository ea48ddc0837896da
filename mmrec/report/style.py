"""The style sheet of the report: light and dark, narrow and wide, screen and paper."""

from __future__ import annotations

# c0 … c5: Okabe and Ito's colours, which people with any colour vision can tell apart; lighter ones on dark ground.
STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --quiet: #57606a;
  --rule: #d5d9de; --hit: #00694b; --hit-ground: #d9f2e8; --cold: #00527f; --cold-ground: #dceefa;
  --c0: #0072b2; --c1: #c04a00; --c2: #00805c; --c3: #a8447f; --c4: #8a6a00; --c5: #444c56; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --panel: #1e2329; --ink: #e8eaed;
  --quiet: #a3abb5; --rule: #3a414a; --hit: #7fe0b8; --hit-ground: #123a2c; --cold: #8fd0ff;
  --cold-ground: #11344d; --c0: #56b4e9; --c1: #ff9650; --c2: #3fd0a2; --c3: #f09bcb; --c4: #f0e442;
  --c5: #c3cad2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 78rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 0 0 .75rem; }
h4 { font-size: .875rem; margin: 0 0 .35rem; font-weight: 600; }
p, .legend { max-width: 50rem; }
.quiet, .legend, figcaption, caption { color: var(--quiet); font-size: .875rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: 1rem 0; }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--rule); }
thead th { border-bottom: 2px solid var(--quiet); }
th { font-weight: 600; }
.legend { padding-left: 1.1rem; margin: .5rem 0 1.25rem; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.25rem; }
figure { margin: 0; }
figure.wide { max-width: 44rem; margin-bottom: 1rem; }
.chart { width: 100%; height: auto; font-size: 13px; fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; }
.axis { stroke: var(--quiet); stroke-width: 1; }
.stroke { fill: none; stroke: currentColor; stroke-width: 2.25; stroke-linejoin: round; }
.sample { vertical-align: middle; margin-right: .35rem; }
.key { margin-right: 1.25rem; white-space: nowrap; }
.stroke.c0 { stroke: var(--c0); } .stroke.c1 { stroke: var(--c1); } .stroke.c2 { stroke: var(--c2); }
.stroke.c3 { stroke: var(--c3); } .stroke.c4 { stroke: var(--c4); } .stroke.c5 { stroke: var(--c5); }
.fill.c0 { fill: var(--c0); } .fill.c1 { fill: var(--c1); } .fill.c2 { fill: var(--c2); }
.fill.c3 { fill: var(--c3); } .fill.c4 { fill: var(--c4); } .fill.c5 { fill: var(--c5); }
.user { background: var(--panel); border: 1px solid var(--rule); border-radius: .5rem; padding: 1rem 1.1rem;
  margin: 0 0 1.25rem; }
.columns { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 4fr); gap: 1rem 2rem; }
.items { list-style: none; margin: 0 0 1rem; padding: 0; display: grid; gap: .6rem .5rem;
  grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)); }
.item { font-size: .72rem; line-height: 1.25; overflow-wrap: anywhere; }
.item img, .blank { display: block; width: 4.6rem; height: 4.6rem; border-radius: .3rem; margin-bottom: .25rem;
  border: 1px solid var(--rule); background: #ffffff; object-fit: contain; }
.blank { display: flex; align-items: center; justify-content: center; text-align: center;
  background: var(--ground); color: var(--quiet); border-style: dashed; }
.item.hit img, .item.hit .blank { outline: 3px solid var(--hit); }
.mark { display: inline-block; padding: 0 .3rem; margin: .1rem .3rem 0 0; border-radius: .25rem; font-weight: 600; }
.mark.hit { color: var(--hit); background: var(--hit-ground); }
.mark.cold { color: var(--cold); background: var(--cold-ground); }
:focus-visible { outline: 3px solid var(--c0); outline-offset: 2px; }
@media (max-width: 52rem) { .columns { grid-template-columns: minmax(0, 1fr); } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; }
  .user, figure, table { break-inside: avoid; } h2, h3, h4 { break-after: avoid; }
  .mark, .item img { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
