"""The report as one page of HTML: cards, then per question a figure and a paragraph, everything else folded.

plotly.js stands in it once, packed; a browser unpacks it and draws the figures in sight, others when their box opens.
"""

from __future__ import annotations

import base64
import gzip
from pathlib import Path

PLOTLY = Path(__file__).parents[1] / "dashboard" / "static" / "plotly-cartesian.min.js"  # all that figures here need
PACKED = "gzip"  # what DecompressionStream unpacks, in every browser since 2023
SCRIPT = """
const waiting = new Set(document.querySelectorAll('.figure'));
function draw() {
  for (const place of [...waiting]) {
    if (place.closest('details:not([open])')) continue;
    waiting.delete(place);
    const { data, layout, frames } = JSON.parse(place.querySelector('script').textContent);
    if (place.closest('.panels')) delete layout.width;
    Plotly.newPlot(place, { data, layout, frames, config: { displaylogo: false, responsive: true } });
  }
}
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById('plotly').textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  const script = document.createElement('script');
  script.textContent = await new Response(stream).text();
  document.head.appendChild(script);
  draw();
  for (const box of document.querySelectorAll('details')) box.addEventListener('toggle', draw);
}
unpack();
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval';
 style-src 'unsafe-inline'; img-src data: blob:; font-src data:; connect-src 'none'">
<title>{{ title }}</title>
<style>
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:1080px;margin:1.4rem auto;padding:0 1rem;
 color:#1a1a1a;background:#fff}
h1{font-size:1.4rem;margin:0 0 .1rem}h2{font-size:1.15rem;margin:1.8rem 0 .3rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
.quiet{color:#595959;font-size:.88rem;margin:.2rem 0 .8rem}.said{margin:.2rem 0 .4rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:.4rem}
.figure{min-height:120px;break-inside:avoid}
.warning{border-left:4px solid #E69F00;background:#fdf6e6;padding:.4rem .8rem}
table{border-collapse:collapse;font-size:.85rem;margin:.6rem 0}
th,td{padding:.2rem .7rem;border-bottom:1px solid #e5e5e5;
 text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.scroll{overflow-x:auto;max-height:26rem;overflow-y:auto}summary{cursor:pointer}
.result{border-top:1px solid #ddd;padding:.4rem 0}.result>summary{font-weight:600}
pre{background:#f6f6f6;padding:.6rem;overflow-x:auto;font-size:.82rem;white-space:pre-wrap}
@media print{body{max-width:none}.scroll{max-height:none}.rest{display:none}.card{break-inside:avoid}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
{{ css }}
</style></head><body>
<h1>{{ title }}</h1>
<p class="quiet">{{ sections|length }} results from {{ root }}, written {{ written }}.
Intervals are 95 %, resampled over items. An empty cell was not measured.</p>
{% for problem in problems %}<p class="warning">{{ problem }}</p>{% endfor %}
{% if not sections %}<p>No results here yet. Make some: <code>probe demo</code>, or
<code>probe sweep perplexity --checkpoints DIR --prompts FILE</code>.</p>{% else %}{{ cards }}{% endif %}
{% for q in questions %}<h2>{{ q.title }}</h2>
{% for sentence in q.said %}<p class="said">{{ sentence }}</p>{% endfor %}
<div class="{{ 'panels' if q.small else '' }}">
{% for f in q.figures %}<div class="figure">{{ f }}</div>{% endfor %}</div>{% endfor %}
{% if sections %}<section class="rest"><h2>Everything else</h2>{% endif %}
{% for s in sections %}
<details class="result" id="{{ s.anchor }}"><summary>{{ s.run }} · {{ s.analysis }}
{% if s.warnings %}({{ s.warnings|length }} warnings){% endif %}</summary>
<p>{{ s.title }} <span class="quiet">{{ s.label }}</span></p>
<p class="said">{{ s.verdict or "No verdict: this analysis reports numbers only." }}</p>
{% for w in s.warnings %}<p class="warning">{{ w }}</p>{% endfor %}
{% for figure in s.figures %}<div class="figure">{{ figure }}</div>{% endfor %}
{% for note in s.notes %}<p class="quiet">{{ note }}</p>{% endfor %}
{% if s.rows %}<details><summary>Estimates with intervals
({{ s.n_estimates }}{% if s.n_estimates > s.rows|length %}, first {{ s.rows|length }} shown{% endif %})</summary>
<div class="scroll"><table><tr>{% for c, n in s.columns %}<th class="{{ 'n' if n }}">{{ c }}</th>{% endfor %}</tr>
{% for row in s.rows %}<tr>{% for (c, n), cell in row %}<td class="{{ 'n' if n }}">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div></details>{% endif %}
<details><summary>What it is, what it does not show, where it comes from</summary>
{% for name, text in s.definitions.items() %}<p><b>{{ name }}.</b> {{ text }}</p>{% endfor %}
{% if s.command %}<pre>{{ s.command }}</pre>{% endif %}
<table>{% for name, value in s.provenance %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}</table>
</details></details>{% endfor %}
{% if sections %}</section>{% endif %}
<script type="text/plain" id="plotly">{{ plotly_js }}</script>
<script>{{ script }}</script></body></html>"""


def packed_plotly() -> str:
    """plotly.js, packed and as text; made the same at every call."""
    return base64.b64encode(gzip.compress(PLOTLY.read_bytes(), 9, mtime=0)).decode("ascii")


def figure_data(figure: str) -> str:
    """A figure's JSON as it stands in a page: no text in it can end the element it is in."""
    inert = figure.replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return f'<script type="application/json">{inert}</script>'
