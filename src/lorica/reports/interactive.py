"""What makes a table of an HTML report one that its reader searches, filters, sorts and opens row by row: a script of
our own, nothing else.

Without scripts the table is a plain one with all its columns. The script takes texts from the page as texts only, and
the page's policy names its digest, so that no other script runs, whatever slipped into a cell.
"""

from __future__ import annotations

import base64
import hashlib

PRINTED_ROWS = 100
"""Rows of one table that go to paper; a note says so."""

VALUE_SEPARATOR = " · "
"""Between the values of one cell that a reader filters by, such as flags."""

SCRIPT = """
"use strict";
var reader = null;
document.querySelectorAll("table.interactive").forEach(function (table) {
  var body = table.tBodies[0], rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  var titles = heads.map(function (head) { return head.textContent; });
  var texts = rows.map(function (row) { return row.textContent.toLowerCase(); });
  var marks = (table.dataset.marks || "").split("|").filter(Boolean);
  var opens = table.hasAttribute("data-opens");
  var controls = element("div", "controls"), status = document.createElement("p");
  var choices = [], boxes = [], details = new Map(), original = rows.slice();
  status.setAttribute("role", "status");
  table.setAttribute("role", "table");
  table.tHead.setAttribute("role", "rowgroup");
  table.tHead.rows[0].setAttribute("role", "row");
  heads.forEach(function (head) { head.setAttribute("role", "columnheader"); });
  body.setAttribute("role", "rowgroup");
  rows.forEach(function (row, index) {
    row.setAttribute("role", "row");
    row.dataset.index = index;
    Array.from(row.cells).forEach(function (cell, column) {
      cell.className = heads[column].className;
      cell.dataset.label = titles[column];
      cell.setAttribute("role", "cell");
      if (opens && column && heads[column].classList.contains("long")) {
        var clamped = element("div", "clamp");
        clamped.dir = "auto";
        clamped.append.apply(clamped, Array.from(cell.childNodes));
        cell.append(clamped);
      }
    });
    if (opens) { addButton(row); }
  });

  function element(name, className) {
    var created = document.createElement(name);
    created.className = className;
    return created;
  }
  function labelled(text, control, after) {
    var label = document.createElement("label");
    if (after) { label.append(control, " " + text); } else { label.append(text + " ", control); }
    control.addEventListener("input", filter);
    controls.append(label);
    return control;
  }
  function values(cell) { return cell.textContent.split("%SEPARATOR%"); }

  var search = document.createElement("input");
  search.type = "search";
  labelled("Search", search);
  heads.forEach(function (head, column) {
    if (!head.hasAttribute("data-choose")) { return; }
    var counts = new Map(), select = document.createElement("select");
    rows.forEach(function (row) {
      values(row.cells[column]).forEach(function (value) { counts.set(value, (counts.get(value) || 0) + 1); });
    });
    if (counts.size < 2) { return; }
    select.append(new Option("all", "all"));
    Array.from(counts.keys()).sort(function (a, b) { return a.localeCompare(b, undefined, { numeric: true }); })
      .forEach(function (value) {
        select.append(new Option((value || "(none)") + " (" + counts.get(value) + ")", "=" + value));
      });
    choices.push([column, labelled(titles[column], select)]);
  });
  marks.forEach(function (mark, number) {
    var box = document.createElement("input");
    box.type = "checkbox";
    boxes.push(["m" + number, labelled("only " + mark, box, true)]);
  });
  var clear = document.createElement("button");
  clear.type = "button";
  clear.textContent = "Show all";
  clear.addEventListener("click", function () {
    search.value = "";
    choices.forEach(function (choice) { choice[1].value = "all"; });
    boxes.forEach(function (box) { box[1].checked = false; });
    filter();
  });
  controls.append(clear, status);
  if (opens) {
    var hint = element("p", "hint");
    hint.textContent = "Keys: / search, j and k (or the arrows) next and previous row, Enter opens and closes.";
    controls.append(hint);
  }
  table.closest(".scroll").before(controls);

  function filter() {
    var words = search.value.toLowerCase().split(/\\s+/).filter(Boolean), shown = 0;
    rows.forEach(function (row) {
      var text = texts[row.dataset.index];
      var fits = words.every(function (word) { return text.includes(word); })
        && choices.every(function (choice) {
          return choice[1].value === "all" || values(row.cells[choice[0]]).includes(choice[1].value.slice(1));
        })
        && boxes.every(function (box) { return !box[1].checked || row.classList.contains(box[0]); });
      row.hidden = !fits;
      shown += fits ? 1 : 0;
      row.classList.toggle("unprinted", shown > %PRINTED%);
      if (details.has(row)) { details.get(row).hidden = !fits; }
    });
    status.textContent = shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " shown";
    if (opens) { reachable(rows.find(function (row) { return !row.hidden; })); }
  }
  function number(cell) {
    var match = /^[-+]?[\\d,]*\\.?\\d+(e[-+]?\\d+)?(?=$|%| [[(])/i.exec(cell.dataset.value || cell.textContent);
    return match ? Number(match[0].replace(/,/g, "")) : NaN;
  }
  function compare(a, b) {
    var difference = number(a) - number(b);
    if (!Number.isNaN(difference)) { return difference; }
    return a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  }
  function empty(cell) { return cell.textContent === "" || cell.textContent === "n/a"; }
  heads.forEach(function (head, column) {
    var button = document.createElement("button");
    button.type = "button";
    button.textContent = titles[column];
    head.replaceChildren(button);
    button.addEventListener("click", function () {
      var sorted = head.getAttribute("aria-sort"), sign = sorted === "ascending" ? -1 : 1;
      heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
      if (sorted === "descending") { rows = original.slice(); } else {
        head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
        rows.sort(function (first, second) {
          var a = first.cells[column], b = second.cells[column];
          return empty(a) - empty(b) || sign * compare(a, b);
        });
      }
      rows.forEach(function (row) {
        body.append(row);
        if (details.has(row)) { body.append(details.get(row)); }
      });
      filter();
    });
  });

  function addButton(row) {
    var cell = row.cells[0], button = element("button", "open");
    button.type = "button";
    button.tabIndex = -1;
    button.setAttribute("aria-expanded", "false");
    button.append.apply(button, Array.from(cell.childNodes));
    if (!button.textContent) { button.textContent = "open"; }
    cell.append(button);
    row.addEventListener("click", function (event) {
      if (event.target.closest("a") || (!event.target.closest("button") && String(getSelection()))) { return; }
      reachable(row);
      toggle(row);
    });
  }
  function toggle(row) {
    var isOpen = details.has(row);
    row.cells[0].firstElementChild.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      details.get(row).remove();
      details.delete(row);
      return;
    }
    var detail = element("tr", "opened"), cell = detail.insertCell(), list = document.createElement("dl");
    detail.setAttribute("role", "row");
    cell.setAttribute("role", "cell");
    cell.colSpan = heads.length;
    Array.from(row.cells).forEach(function (source, column) {
      if (empty(source)) { return; }
      var term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = titles[column];
      value.textContent = source.textContent;
      value.dir = "auto";
      list.append(term, value);
    });
    cell.append(list);
    row.after(detail);
    details.set(row, detail);
  }
  var current = null;
  function reachable(row) {
    if (current) { current.cells[0].firstElementChild.tabIndex = -1; }
    current = row || null;
    if (current) { current.cells[0].firstElementChild.tabIndex = 0; }
  }
  function move(step) {
    var shown = rows.filter(function (row) { return !row.hidden; });
    if (!shown.length) { return; }
    var isFocused = current && current.contains(document.activeElement);
    var index = shown.indexOf(current) + (isFocused ? step : 0);
    reachable(shown[Math.max(0, Math.min(shown.length - 1, index))]);
    current.cells[0].firstElementChild.focus();
    current.scrollIntoView({ block: "nearest" });
  }
  search.addEventListener("keydown", function (event) {
    if (event.key === "Escape") { search.value = ""; filter(); }
    if (opens && (event.key === "Enter" || event.key === "ArrowDown")) { event.preventDefault(); move(0); }
  });
  body.addEventListener("keydown", function (event) {
    var step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (opens && step) { event.preventDefault(); move(step); }
  });
  table.classList.add("ready");
  filter();
  if (reader === null || (opens && !reader.opens)) { reader = { search: search, move: move, opens: opens }; }
});
document.addEventListener("keydown", function (event) {
  if (reader === null || event.ctrlKey || event.metaKey || event.altKey) { return; }
  if (document.activeElement.closest("input:not([type=checkbox]), select")) { return; }
  var step = { j: 1, k: -1 }[event.key];
  if (event.key === "/") {
    event.preventDefault();
    reader.search.focus();
    reader.search.scrollIntoView({ block: "nearest" });
  }
  if (step && reader.opens) { event.preventDefault(); reader.move(step); }
});
function unfold() {
  var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  var folded = target && target.closest("details");
  if (folded) { folded.open = true; target.scrollIntoView(); }
}
window.addEventListener("hashchange", unfold);
unfold();
""".replace("%SEPARATOR%", VALUE_SEPARATOR).replace("%PRINTED%", str(PRINTED_ROWS))

# With the script on a narrow screen each row is a block of named values, of the columns that matter most.
CSS = (
    """
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.2rem; align-items: baseline; margin-top: 1rem; }
.controls p { margin: 0; color: var(--muted); } .controls .hint { flex-basis: 100%; font-size: .9rem; }
.controls label { max-width: 100%; } .controls :is(input, select, button) { font: inherit; max-width: 100%; }
.controls :focus-visible, th button:focus-visible, .open:focus-visible {
outline: 2px solid var(--accent); outline-offset: 2px; }
tr[hidden] { display: none !important; } table.interactive th { vertical-align: bottom; }
table.interactive .long { min-width: 16rem; overflow-wrap: anywhere; }
th button, .open { font: inherit; color: inherit; background: none; border: 0; padding: .2rem 0; cursor: pointer;
text-align: inherit; text-decoration: underline dotted; max-width: 16rem; overflow-wrap: break-word; }
.open { padding: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; vertical-align: top; }
.open::before { content: "\\25B8\\00A0"; } .open[aria-expanded=true]::before { content: "\\25BE\\00A0"; }
th[aria-sort=ascending] button::after { content: " \\2191"; } th[aria-sort=descending] button::after { content:
" \\2193"; }
.ready .detail { display: none; } .ready tbody tr:focus-within td { background: var(--focus); }
tr.opened td { padding: .4rem .8rem 1rem 1.6rem; border-left: 3px solid var(--accent); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .15rem 1rem; margin: 0; }
dt { color: var(--muted); max-width: 14rem; overflow-wrap: anywhere; } dd { margin: 0; white-space: pre-wrap;
overflow-wrap: anywhere; max-width: 60rem; } .print-note { display: none; }
@media screen and (min-width: 45.01rem) {
.clamp { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; } }
@media screen and (max-width: 45rem) {
table.ready, .ready tbody, .ready tr, .ready thead { display: block; }
.ready tr { padding: .4rem 0; border-bottom: 2px solid var(--line); }
.ready thead tr { display: flex; flex-wrap: wrap; gap: 0 .9rem; } .ready th { padding: 0; border: 0; }
.ready td { display: flex; gap: .6rem; border: 0; padding: .1rem .4rem; text-align: left; white-space: normal;
overflow-wrap: anywhere; min-width: 0; } table.ready .long { min-width: 0; }
.ready td[data-label]::before { content: attr(data-label); flex: 0 0 5.5rem; color: var(--muted);
overflow-wrap: normal; }
.ready td:empty, .ready td.extra { display: none; } dl { grid-template-columns: minmax(0, 1fr); }
dt { margin-top: .3rem; } tr.opened td { padding: .2rem .4rem .6rem .6rem; } }
@media print { .controls, .unprinted { display: none; } table.interactive .long { min-width: 0; }
.print-note { display: block; }
table.interactive:not(.ready) tbody tr:nth-child(n+%NEXT%) { display: none; } }
"""
).replace("%NEXT%", str(PRINTED_ROWS + 1))


def policy() -> str:
    """What the page's Content-Security-Policy allows besides: this one script."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    return f"script-src 'sha256-{digest}'; "
