"""Draws a figure in the page with Plotly's own script: once each, and first what the window shows.

Streamlit's chart draws a figure two or three times until its width is known, all charts of a page in one go, and anew
from nothing whenever a figure changes. Here a chart keeps its place and is changed in it; what the window does not show
waits until the browser has nothing else to do. Printing waits for none.
"""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from dashboard.server.preload import LOAD
from dashboard.style import FONT

HTML = '<div class="ib-chart" role="figure"></div>'
CSS = "@media print { .ib-chart { break-inside: avoid } }"
SCRIPT = f"""
const LEAST_WIDTH = 150
const charts = new Map()
const idle = window.requestIdleCallback ?? ((run) => setTimeout(run, 100))
let working = false

// Text is measured as it is drawn: in its own font.
const fonts = ["", "italic "].map((style) => document.fonts.load(style + {json.dumps(f"13px {FONT}")}))
const ready = () => Promise.all([{LOAD}, Promise.allSettled(fonts)])
const beyond = (node) => {{
  const {{top, bottom}} = node.getBoundingClientRect()
  return Math.max(top - innerHeight, -bottom, 0)
}}
const waiting = () =>
  [...charts.keys()].filter((node) => charts.get(node).due && node.clientWidth).sort((a, b) => beyond(a) - beyond(b))
const draw = (node) => {{
  const chart = charts.get(node)
  const {{data, layout}} = JSON.parse(chart.figure)
  chart.due = false
  chart.width = node.clientWidth
  const width = Math.max(chart.width, LEAST_WIDTH)
  window.Plotly.react(node, data, {{...layout, width}}, JSON.parse(chart.config))
}}
const work = async () => {{
  if (working) return
  working = true
  try {{
    await ready()
    for (let next; (next = waiting()).length; ) {{
      const seen = next.filter((node) => beyond(node) === 0)
      if (!seen.length) await new Promise((go) => idle(go, {{timeout: 1000}}))
      // Meanwhile the page may have been scrolled, or left.
      for (const node of seen.length ? seen : waiting().slice(0, 1)) draw(node)
    }}
  }} catch (error) {{
    for (const node of waiting()) node.textContent = error.message
  }} finally {{
    working = false
  }}
}}
const near = new IntersectionObserver((entries) => {{
  for (const {{isIntersecting, target}} of entries)
    if (window.Plotly && isIntersecting && target.clientWidth && charts.get(target)?.due) draw(target)
}}, {{rootMargin: "300px"}})
const sizes = new ResizeObserver((entries) => {{
  for (const {{target}} of entries) {{
    const chart = charts.get(target)
    if (chart && target.clientWidth !== chart.width) chart.due = true
  }}
  work()
}})
addEventListener("beforeprint", () => {{ if (window.Plotly) waiting().forEach(draw) }})

export default function ({{data, parentElement}}) {{
  const node = parentElement.querySelector(".ib-chart")
  node.setAttribute("aria-label", data.alt)
  const before = charts.get(node)
  charts.set(node, {{...before, figure: data.figure, config: data.config, due: true}})
  if (!before) {{
    near.observe(node)
    sizes.observe(node)
  }}
  work()
  return () => {{
    near.unobserve(node)
    sizes.unobserve(node)
    charts.delete(node)
    window.Plotly?.purge(node)
  }}
}}
"""

# In the page itself, as what is printed, searched and styled is there, too.
_chart = st.components.v2.component("chart", html=HTML, css=CSS, js=SCRIPT, isolate_styles=False)


def draw(figure: str, height: int, key: str, config: dict[str, Any], alt: str) -> None:
    """A figure, in JSON, as it is: as wide as there is room and `height` px high, from the start.

    `config`: Plotly's own. `alt`: the chart in words.
    """
    data = {"figure": figure, "config": json.dumps(config), "alt": alt}
    _chart(key=key, data=data, height=height)
