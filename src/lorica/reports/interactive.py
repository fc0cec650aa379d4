"""What makes a table of an HTML report one that its reader sorts and filters: a script of our own, nothing else.

Without scripts the table is a plain one. The script takes texts from the page as texts only, and the page's policy
names its digest, so that no other script runs, whatever slipped into a cell.
"""

from __future__ import annotations

import base64
import hashlib

SCRIPT = """
"use strict";
document.querySelectorAll("table.interactive").forEach(function (table) {
  var body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  var controls = document.createElement("div"), status = document.createElement("p");
  controls.className = "controls";
  status.setAttribute("role", "status");
  function labelled(text, control) {
    var label = document.createElement("label");
    label.append(text + " ", control);
    control.addEventListener("input", filter);
    controls.append(label);
    return control;
  }
  var search = document.createElement("input");
  search.type = "search";
  labelled("Filter", search);
  var choices = [];
  heads.forEach(function (head, column) {
    if (!head.hasAttribute("data-choose")) { return; }
    var select = document.createElement("select");
    var values = new Set(rows.map(function (row) { return row.cells[column].textContent; }));
    select.append(new Option("all", ""));
    Array.from(values).sort().forEach(function (value) { select.append(new Option(value, value)); });
    choices.push([column, labelled(head.textContent, select)]);
  });
  controls.append(status);
  table.closest(".scroll").before(controls);
  function filter() {
    var words = search.value.toLowerCase().split(/\\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (row) {
      var text = row.textContent.toLowerCase();
      var fits = words.every(function (word) { return text.includes(word); }) && choices.every(function (choice) {
        return choice[1].value === "" || row.cells[choice[0]].textContent === choice[1].value;
      });
      row.hidden = !fits;
      shown += fits ? 1 : 0;
    });
    status.textContent = shown + " of " + rows.length + " shown";
  }
  function compare(a, b) {
    if (a.dataset.value !== undefined && b.dataset.value !== undefined) { return a.dataset.value - b.dataset.value; }
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }
  function empty(cell) { return cell.textContent === "" || cell.textContent === "n/a"; }
  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", function () {
      var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      rows.sort(function (first, second) {
        var a = first.cells[column], b = second.cells[column];
        return empty(a) - empty(b) || sign * compare(a, b);
      });
      body.append.apply(body, rows);
    });
  });
  table.classList.add("ready");
  filter();
});
function unfold() {
  var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  var folded = target && target.closest("details");
  if (folded) { folded.open = true; target.scrollIntoView(); }
}
window.addEventListener("hashchange", unfold);
unfold();
"""

# On a narrow screen each row is a block of named values, of the columns that matter most.
CSS = """
main.wide { max-width: 100rem; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: baseline; margin-top: 1rem; }
.controls p { margin: 0; color: var(--muted); } .controls input, .controls select { font: inherit; max-width: 100%; }
tr[hidden] { display: none !important; } table.interactive th { vertical-align: bottom; }
table.interactive td.long { min-width: 16rem; overflow-wrap: anywhere; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: .2rem 0; cursor: pointer;
text-align: inherit; text-decoration: underline dotted; }
th button:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content:
" \\2193"; }
details.section { margin: .3rem 0; color: inherit; } details.section > summary { cursor: pointer; }
details.section > summary h2 { display: inline; font-size: 1.05rem; border: 0; overflow-wrap: anywhere; }
@media (max-width: 45rem) {
table.interactive, table.interactive tbody, table.interactive tr { display: block; }
table.interactive tr { padding: .4rem 0; border-bottom: 2px solid var(--line); }
table.interactive thead { display: none; } table.interactive.ready thead { display: block; }
table.interactive.ready thead tr { display: flex; flex-wrap: wrap; gap: 0 .9rem; }
table.interactive.ready th { padding: 0; border: 0; }
table.interactive td { display: flex; gap: .6rem; border: 0; padding: .1rem .4rem; text-align: left; white-space:
normal; overflow-wrap: anywhere; }
table.interactive td.long { min-width: 0; }
table.interactive td::before { content: attr(data-label); flex: 0 0 5.5rem; color: var(--muted);
overflow-wrap: normal; }
table.interactive td:empty, table.interactive .extra { display: none !important; } }
@media print { .controls { display: none; } }
"""


def policy() -> str:
    """What the page's Content-Security-Policy allows besides: this one script."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    return f"script-src 'sha256-{digest}'; "
