"""How markup of this package looks, on a page and in a notebook: one style sheet, four tones, light and dark.

Colours and grids are those of `probe.grids`. Tones mean good, bad, place and unknown, and nothing else; each is told by
a word or a sign as well.
"""

from __future__ import annotations

import html

from probe import grids

GOOD, BAD, PLACE, UNKNOWN = "good", "bad", "place", "unknown"
SIGNS = {GOOD: "✓", BAD: "!", PLACE: "◎", UNKNOWN: "?"}

_OWN = """
.probe [data-pick]{cursor:pointer}
.probe button{font:inherit;color:inherit;background:none;border:0;padding:0;margin:0;text-align:left}
.probe :focus-visible{outline:2px solid var(--accent);outline-offset:1px}
.probe .good{--tone:#009E73}.probe .bad{--tone:#D55E00}.probe .place{--tone:#0072B2}.probe .unknown{--tone:#7F7F7F}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:8px}
.card{border-left:5px solid var(--tone);border-radius:4px;padding:5px 10px;min-width:0;
 background:color-mix(in srgb,var(--tone) 9%,var(--page))}
.card .title{display:block;width:100%;font-size:20px;line-height:26px;font-weight:650;white-space:nowrap;
 overflow:hidden;text-overflow:ellipsis}
.card summary{display:flex;gap:5px;color:var(--quiet);font-size:13px;line-height:18px;cursor:pointer;list-style:none}
.card summary::-webkit-details-marker{display:none}
.card summary::before{content:"▸"}.card [open] summary::before{content:"▾"}
.card summary span{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden;min-width:0}
.card [open] summary span{-webkit-line-clamp:none}
.card .said{margin:4px 0 6px;font-size:13px}
.card dl{display:grid;grid-template-columns:max-content 1fr;gap:1px 8px;margin:2px 0 6px;font-size:12px}
.card dt{color:var(--quiet)}.card dd{margin:0}
.runs{font-size:13px}
.run{display:flex;align-items:center;gap:6px;height:24px}
.runs .together{margin:6px 0 0 4px;font-size:12px;overflow-wrap:anywhere}
.run .eye{flex:none;width:20px;height:22px;display:flex;align-items:center;justify-content:center}
.run .eye i{display:block;width:12px;height:12px;border-radius:3px;border:2px solid}
.run .name{flex:1;min-width:0;direction:rtl;text-align:left;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.run.off .name{color:var(--quiet)}
.run .curve{flex:none;width:46px;height:14px}.run svg polyline{fill:none;stroke:inherit;stroke-width:1.5}
.dot{flex:none;width:16px;height:16px;border-radius:50%;border:2px solid var(--tone);font-size:10px;font-weight:700;
 line-height:12px;text-align:center}
.probe h4{margin:8px 0 2px;font-size:13px;font-weight:650}
.probe pre{margin:0 0 6px;padding:6px 8px;border-radius:4px;background:var(--wash);white-space:pre-wrap;
 overflow-wrap:anywhere;font:13px/1.45 var(--mono)}
.probe mark{background:color-mix(in srgb,#E69F00 38%,var(--page));color:inherit;border-radius:2px}
.tick{font-style:normal;font-weight:700;font-size:12px;display:inline-block;min-width:13px;text-align:center}
.tick.right{color:color-mix(in srgb,#009E73 70%,var(--ink))}.tick.wrong{color:color-mix(in srgb,#D55E00 75%,var(--ink))}
.tick.cut,.tick.none{color:var(--quiet)}.tick.at{border-bottom:2px solid currentColor}
.items{max-height:560px;overflow-y:auto;border:1px solid var(--line);border-radius:4px}
.item{display:block;width:100%;padding:4px 8px!important;border-bottom:1px solid var(--line)!important}
.item .line{display:block;white-space:nowrap;overflow:hidden;text-overflow:ellipsis;font-size:13px;line-height:18px}
.item.now{background:color-mix(in srgb,var(--accent) 14%,var(--page))}
.ticks{display:block;line-height:17px}
.heads{display:flex;flex-wrap:wrap;gap:6px}
.head{display:flex;flex-direction:column;align-items:center;font-size:12px;border-radius:4px}
.head svg{border:1px solid var(--line);fill:#3b8fd0;background:var(--page)}.head.now svg{outline:2px solid var(--ink)}
.tokens{display:flex;flex-wrap:wrap;gap:2px;font:12px/1.3 var(--mono)}
.tokens .token{padding:2px 4px;border-radius:3px;white-space:pre;
 background:color-mix(in srgb,#3b8fd0 calc(var(--p)*62%),var(--wash))}.tokens .now{outline:2px solid var(--ink)}
.tip{position:fixed;z-index:1000;max-width:300px;padding:6px 8px;border:1px solid var(--line);border-radius:4px;
 background:var(--page);box-shadow:0 2px 8px #0004;font-size:12px;line-height:16px;pointer-events:none}
.tip .bar{display:grid;grid-template-columns:90px 1fr 44px;gap:6px;font-family:var(--mono);white-space:pre}
.tip .bar i{align-self:center;height:8px;background:var(--accent)}
@media (max-width:640px){.items{max-height:260px}}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(260px,1fr));gap:4px 12px}
.reader .facts{margin:4px 0;font-size:13px;line-height:18px}
"""
CSS = grids.CSS + _OWN


def markup(body: str, label: str = "") -> str:
    """``body`` as a block that the style sheet applies to; ``label`` names it for readers who do not see it."""
    named = f' role="group" aria-label="{text(label)}"' if label else ""
    return f'<div class="probe"{named}>{body}</div>'


def alone(found: str) -> str:
    """Markup with its style sheet, as a notebook or a file shows it."""
    return f"<style>{CSS}</style>{found}"


def text(value: object) -> str:
    """A text that stands in markup, between tags and in attributes, as it is."""
    return html.escape(str(value), quote=True)
