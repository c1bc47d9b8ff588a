"""The style of the page: on a wide screen, on a phone, in the dark and on paper."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { --paper: #fff; --ink: #1a1a1a; --soft: #555; --line: #ccc; --shade: #f4f4f2;
  --link: #0072b2; --mark: #d55e00; color-scheme: light dark; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e8e8e8; --soft: #b0b0b0; --line: #4a4d55; --shade: #20242a;
    --link: #56b4e9; --mark: #f0913a; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 84rem; padding: 1rem clamp(0.75rem, 3vw, 2.5rem); }
h1 { line-height: 1.2; margin-bottom: 0.3em; }
h2 { margin: 2.5em 0 0.2em; border-bottom: 1px solid var(--line); }
h3 { margin: 1.4em 0 0.4em; font-weight: 600; }
p, dl { max-width: 52rem; }
a { color: var(--link); }
.warning { border-left: 0.3rem solid var(--mark); padding-left: 0.8rem; }
.soft, figcaption { color: var(--soft); font-size: 0.92rem; }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; max-width: 34rem; break-inside: avoid; }
figure img { display: block; width: 100%; height: auto; }
.key { display: grid; grid-template-columns: 3.2rem 1fr; gap: 0.35rem 0.8rem; align-items: center; }
.key dt svg { display: block; width: 3.2rem; height: 1.4rem; } .key dd { margin: 0; }
.summary { font-size: 0.92rem; margin: 1.5rem 0; } .summary caption, .summary th[scope=row] { text-align: left; }
details { margin-top: 1rem; } summary { cursor: pointer; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.78rem; font-variant-numeric: tabular-nums; line-height: 1.25; }
th, td { padding: 0.15rem 0.45rem; text-align: right; vertical-align: top; white-space: nowrap; font-weight: normal;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; color: var(--soft); } thead th[scope=colgroup] { text-align: center; }
th[scope=rowgroup] { text-align: left; font-weight: 600; background: var(--shade); padding-top: 0.4rem; }
td small { display: block; color: var(--soft); }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  body { font-size: 10pt; max-width: none; padding: 0; }
  .row { grid-template-columns: repeat(3, 1fr); gap: 0.5rem 1rem; }
  .soft, figcaption { font-size: 8.5pt; line-height: 1.35; color: var(--ink); } a { color: inherit; }
  h2, h3, summary { break-after: avoid; } .together, .key, tr { break-inside: avoid; } section { break-before: page; }
  details::details-content { content-visibility: visible; display: block; height: auto; } summary { list-style: none; }
  .wide { overflow: visible; } table { font-size: 6.2pt; width: 100%; } th, td { padding: 0.1rem 0.2rem; }
}
"""
