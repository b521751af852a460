"""The style of the page: it holds in light and dark, and on paper."""

from __future__ import annotations

CSS = """
:root { color-scheme: light dark; --page: #fff; --ink: #1a1c20; --dim: #5b6270;
  --line: #d4d8df; --good: #13662f; --warn: #7a5200; --bad: #b3151d;
  --good-back: #e0f3e5; --warn-back: #fdf0d2; --bad-back: #fde4e3; --idle-back: #eceef2;
  --h0: #f2f4f7; --h1: #dbe7f6; --h2: #b4cfee; --h3: #7fadde; --h4: #3f7fc1;
  --h5: #ffd08a; --h6: #ffa94d; --h7: #f2762e; --h8: #d8401f; --h9: #8f0f14; }
@media (prefers-color-scheme: dark) { :root { --page: #15171b; --ink: #e6e8ec;
  --dim: #9aa2b1; --line: #353a44; --good: #7bd694; --warn: #f0c265; --bad: #ff8f88;
  --good-back: #17301f; --warn-back: #37290d; --bad-back: #431a1a; --idle-back: #23262d;
  --h0: #1e2127; --h1: #20324a; --h2: #274a73; --h3: #336aa5; --h4: #5a98d8;
  --h5: #8a5a12; --h6: #b8741a; --h7: #e08a2c; --h8: #f26a4a; --h9: #ff4d55; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 0 0 .4rem; }
code, pre, td, svg text { font-family: ui-monospace, monospace; font-size: 13px; }
pre { overflow-x: auto; padding: .7rem; border: 1px solid var(--line);
  border-radius: 4px; }
.wide { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; }
caption { text-align: left; color: var(--dim); padding-bottom: .4rem; }
th, td { padding: .15rem .7rem .15rem 0; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.number { text-align: right; }
td.ran, td.good { background: var(--good-back); color: var(--good); }
td.warn { background: var(--warn-back); color: var(--warn); }
td.bad { background: var(--bad-back); color: var(--bad); font-weight: 600; }
td.idle { background: var(--idle-back); color: var(--dim); }
td.ran, td.good, td.warn, td.bad, td.idle { padding-left: .5rem; }
.verdict { display: inline-block; padding: .3rem .8rem; border-radius: 4px;
  font-weight: 600; }
.verdict.good { background: var(--good-back); color: var(--good); }
.verdict.bad { background: var(--bad-back); color: var(--bad); }
.verdict.idle { background: var(--idle-back); color: var(--ink); }
article { border-top: 1px solid var(--line); padding-top: 1rem; margin-top: 1.5rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { margin: 0; max-width: 100%; } figcaption { color: var(--dim);
  font-size: 13px; max-width: 40rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--ink); }
svg text.dim { fill: var(--dim); } svg text.bad { fill: var(--bad); }
svg .bar { fill: var(--h4); } svg .bound { stroke: var(--ink); stroke-dasharray: 3 2; }
.h0 { fill: var(--h0); } .h1 { fill: var(--h1); } .h2 { fill: var(--h2); }
.h3 { fill: var(--h3); } .h4 { fill: var(--h4); } .h5 { fill: var(--h5); }
.h6 { fill: var(--h6); } .h7 { fill: var(--h7); } .h8 { fill: var(--h8); }
.h9 { fill: var(--h9); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; }
dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
nav { display: flex; gap: 1.2rem; } a { color: var(--h4); }
"""
