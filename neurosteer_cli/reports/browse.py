"""Descriptions of latents as one HTML page that needs nothing else.

Knows descriptions and HTML; knows nothing of models or files.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

from ..saes.descriptions import Description, Descriptions

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }}
header {{ position: sticky; top: 0; background: #fff; padding: .5rem 0; border-bottom: 1px solid #ccc; }}
input, select {{ font: inherit; padding: .3rem .5rem; }} input {{ width: 22rem; max-width: 100%; }}
article {{ border-bottom: 1px solid #eee; padding: .6rem 0; }} h2 {{ font-size: 1rem; margin: 0; }}
h2 small {{ color: #666; font-weight: normal; }} p {{ margin: .2rem 0; }} mark {{ background: #ffd97a; }}
.up {{ color: #17632b; }} .down {{ color: #8c1d18; }} code {{ white-space: pre-wrap; }}
</style></head><body>
<header><h1>{title}</h1><p>{about}</p>
<input id="query" type="search" placeholder="a word, or a latent's number" aria-label="Search latents">
<select id="order" aria-label="Order"><option value="id">by number</option>
<option value="rate">most often firing first</option><option value="peak">strongest first</option></select>
<span id="count"></span></header>
<main id="list"></main><noscript>This page lists latents with JavaScript.</noscript>
<script type="application/json" id="data">{data}</script>
<script>
const all = JSON.parse(document.getElementById("data").textContent);
const query = document.getElementById("query"), order = document.getElementById("order");
const SHOWN = 200;
function make(tag, text, kind) {{
  const one = document.createElement(tag); one.textContent = text; if (kind) one.className = kind; return one;
}}
function card(latent) {{
  const box = make("article", ""), head = make("h2", "latent " + latent.id + " ");
  head.append(make("small", "fires at " + (100 * latent.rate).toPrecision(2) + " % of tokens"));
  box.append(head);
  for (const [before, token, after, value] of latent.at) {{
    const line = make("p", ""), code = make("code", before);
    code.append(make("mark", token), after); line.append(code, make("small", "  " + value)); box.append(line);
  }}
  const words = list => list.map(x => JSON.stringify(x)).join(" ");
  box.append(make("p", "promotes " + words(latent.up), "up"));
  box.append(make("p", "suppresses " + words(latent.down), "down"));
  return box;
}}
function show() {{
  const wanted = query.value.trim().toLowerCase();
  const found = all.filter(latent => !wanted || (/^[0-9]+$/.test(wanted) ? String(latent.id) === wanted
    : latent.text.includes(wanted)));
  const key = {{id: x => x.id, rate: x => -x.rate, peak: x => -(x.at.length ? x.at[0][3] : 0)}}[order.value];
  found.sort((a, b) => key(a) - key(b));
  document.getElementById("count").textContent = found.length + " latents" +
    (found.length > SHOWN ? ", the first " + SHOWN + " shown" : "");
  document.getElementById("list").replaceChildren(...found.slice(0, SHOWN).map(card));
}}
for (const latent of all) latent.text = (latent.at.map(x => x[0] + x[1] + x[2]).join(" ") + " " +
  latent.up.join(" ")).toLowerCase();
query.addEventListener("input", show); order.addEventListener("change", show); show();
</script></body></html>
"""


def page(descriptions: Sequence[Descriptions]) -> str:
    """The page of one or several SAEs' latents, the SAE's block in front of each number if several."""
    abouts = [one.about for one in descriptions]
    title = f"Latents of {', '.join(about.hook_point for about in abouts)}"
    about = "; ".join(
        f"{one.hook_point} of {one.model_id}: {one.d_sae} latents, contexts from {one.n_tokens:,} tokens"
        for one in abouts
    )
    several = len(descriptions) > 1
    records = [
        _record(latent, f"{one.about.hook_point.split('.')[1]}/" if several else "")
        for one in descriptions
        for latent in one.latents
    ]
    # `</script>` in a context must not end the page's data
    data = json.dumps(records, ensure_ascii=True).replace("<", "\\u003c")
    return _PAGE.format(title=html.escape(title), about=html.escape(about), data=data)


def _record(latent: Description, block: str) -> dict[str, Any]:
    return {
        "id": f"{block}{latent.latent_id}" if block else latent.latent_id,
        "rate": latent.firing_rate,
        "at": [[c.before, c.token, c.after, round(c.activation, 2)] for c in latent.contexts],
        "up": latent.promoted,
        "down": latent.suppressed,
    }
