"""The style of HTML reports: system fonts, light and dark, printable."""

from __future__ import annotations

# Colours of curves 1 to 6, distinguishable with the common kinds of colour blindness (Okabe and Ito), and
# dashes that tell them apart without colour.
SERIES = 6
DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2")

_LIGHT = """
  --bg: #ffffff; --fg: #1c2024; --muted: #56606c; --line: #d5dae1; --band: #f4f6f8; --focus: #e3effa;
  --accent: #0b62a8; --s1: #0072b2; --s2: #b84a00; --s3: #00795a; --s4: #a3417c; --s5: #8a6d00; --s6: #4a4a4a;
"""
_DARK = """
  --bg: #15181c; --fg: #e6e9ed; --muted: #a0a9b4; --line: #363d46; --band: #1e2329; --focus: #22374b;
  --accent: #7cb8ee; --s1: #56b4e9; --s2: #f0883e; --s3: #2ec49a; --s4: #dd8fbb; --s5: #e6c229; --s6: #c4c4c4;
"""
# Paper is white, whatever the screen is.
_RULES = (
    f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; }} }}
"""
    + """
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
header, main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
.wide :is(header, main, footer) { max-width: 100rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.summary { font-size: 1.08rem; margin: .5rem 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding: 0; margin: 1.2rem 0 0; }
a { color: var(--accent); }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0 0 .4rem; }
th, td { padding: .36rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom: 2px solid var(--line); }
tbody tr:nth-child(even) { background: var(--band); }
.number { text-align: right; white-space: nowrap; }
th.number { white-space: normal; }
figure { margin: 1.2rem 0; max-width: 60rem; min-width: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(38rem, 100%), 1fr)); gap: 0 2rem; }
figcaption { font-weight: 600; margin-bottom: .3rem; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
.narrow { display: none; }
@media screen and (max-width: 38rem) { .drawn { display: none; } .narrow { display: block; } }
svg text { fill: var(--fg); font-size: 13px; font-family: inherit; }
svg .quiet { fill: var(--muted); }
svg .grid { stroke: var(--line); }
svg .reference { stroke: var(--muted); stroke-dasharray: 4 4; }
svg .bar { stroke: var(--s1); stroke-width: 2.5; }
svg .thin { stroke-width: 1.5; }
svg .dot { fill: var(--s1); }
svg .hollow { fill: var(--bg); stroke: var(--s1); stroke-width: 2; }
svg .curve { fill: none; stroke-width: 2; }
svg .area { stroke: none; fill-opacity: .15; }
details { margin: .4rem 0; color: var(--muted); }
details.section { margin: .3rem 0; color: inherit; }
summary { cursor: pointer; }
summary h2 { display: inline; font-size: 1.05rem; border: 0; }
summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.notes { color: var(--muted); font-size: .94rem; }
footer { color: var(--muted); font-size: .9rem; overflow-wrap: anywhere; padding: 2rem 1.25rem 3rem; }
@media print {
  body { font-size: 10pt; }
  header, main, footer, .wide :is(header, main, footer) { max-width: none; padding: 0; }
  nav, figure details { display: none; }
  h2, caption { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  thead { display: table-header-group; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  th, td { padding: .15rem .3rem; overflow-wrap: anywhere; }
  .number { white-space: normal; }
}
"""
)
CSS = _RULES + "".join(
    f"svg .s{n} {{ stroke: var(--s{n}); }} svg .f{n} {{ fill: var(--s{n}); }}\n" for n in range(1, SERIES + 1)
)
