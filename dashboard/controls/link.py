"""The page's address with every choice in it: what controls read from it and write into it, and Copy link."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import streamlit as st

Value = TypeVar("Value")
PLACE = "copy_link"
# In the header's bar, out of the flow: no page makes room for it, and none moves when it appears.
STYLE = f"""
[data-testid=stLayoutWrapper]:has(>.st-key-{PLACE}),.st-key-{PLACE}{{position:fixed;top:.7rem;right:3.6rem;
  width:auto;z-index:1000000}}
@media print{{.st-key-{PLACE}{{display:none}}}}
"""
HTML = """<button type="button" title="The address of this page with every choice on it">Copy link</button>
<span role="status"></span>"""
CSS = """
:host, div { font-family: var(--st-font); }
button {
  font: inherit; font-size: 0.85rem; color: var(--st-text-color); background: var(--st-background-color);
  border: 1px solid var(--st-border-color); border-radius: var(--st-button-radius);
  padding: 0.2rem 0.6rem; cursor: pointer; white-space: nowrap;
}
button:hover { border-color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 1px; }
span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
"""
# Browsers give the clipboard to secure contexts alone; localhost is one, a host's name over plain HTTP is not.
SCRIPT = """
export default function ({ parentElement }) {
  const button = parentElement.querySelector("button")
  const said = parentElement.querySelector("span")
  const say = (text) => {
    button.textContent = text
    said.textContent = text
    clearTimeout(button.later)
    button.later = setTimeout(() => { button.textContent = "Copy link"; said.textContent = "" }, 2000)
  }
  button.onclick = async () => {
    const address = window.location.href
    try {
      await navigator.clipboard.writeText(address)
      say("✓ Copied")
    } catch {
      window.prompt("This browser does not lend its clipboard here. The link:", address)
    }
  }
}
"""

_button = st.components.v2.component("copy_link", html=HTML, css=CSS, js=SCRIPT)


def copy_link() -> None:
    """The button, where STYLE places it; the address is read in the browser, so that no rerun is needed."""
    with st.container(key=PLACE, width="content"):
        _button(key="copy_link_button", width="content", height="content")


def first(name: str, key: str, usual: Value, read: Callable[[str], Value]) -> Value:
    """The value that the control `key` begins with: what the URL says of `name`, else `usual`.

    For controls of a suite, whose keys change with it, so that they cannot be bound to the URL. `read` raises
    ValueError for what cannot be.
    """
    begun = st.session_state.setdefault("first_values", {})
    if key not in begun:
        try:
            begun[key] = read(st.query_params[name])
        except (KeyError, ValueError):
            begun[key] = usual
    return cast(Value, begun[key])


def remember(name: str, value: object, usual: object) -> None:
    """Writes a choice into the URL where it is not the usual one."""
    if str(value) == str(usual):
        st.query_params.pop(name, None)
    elif st.query_params.get(name) != str(value):
        st.query_params[name] = str(value)
    _seen(name, st.query_params.get(name))


def moved(name: str) -> bool:
    """Whether the URL says another thing of `name` than at the last look, or than `remember` wrote: Back, or a link."""
    now = st.query_params.get(name)
    return bool(now != _seen(name, now))


def _seen(name: str, now: str | None) -> object:
    """What the URL said of `name` at the last look; from here on `now`."""
    seen = st.session_state.setdefault("seen_in_url", {})
    before = seen.get(name, seen)
    seen[name] = now
    return before
