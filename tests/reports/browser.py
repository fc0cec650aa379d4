"""Pages in headless Chromium, where one is installed: what a reader's browser makes of them.

The page stands unchanged, with its policy, in a frame of the wished width; a script of the frame's parent looks at it.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium to open pages in")

# What is wrong with a page as it stands: too wide elements, texts of too little contrast, requests.
INSPECT = """
function inspect(page, frame) {
  function luminance(color) {
    return color.match(/[\\d.]+/g).slice(0, 3).map(function (part) {
      var value = part / 255;
      return value <= 0.03928 ? value / 12.92 : Math.pow((value + 0.055) / 1.055, 2.4);
    }).reduce(function (sum, value, index) { return sum + value * [0.2126, 0.7152, 0.0722][index]; }, 0);
  }
  function background(element) {
    for (; element; element = element.parentElement) {
      var color = frame.getComputedStyle(element).backgroundColor;
      if (!/^rgba\\(0, 0, 0, 0\\)$/.test(color)) { return color; }
    }
    return "rgb(255, 255, 255)";
  }
  var wide = [], faint = [], width = page.documentElement.clientWidth;
  page.body.querySelectorAll("*").forEach(function (element) {
    if (element.matches("script, select, input, option, .controls button")) { return; }
    var box = element.getBoundingClientRect();
    if (!box.width) { return; }
    var isWide = box.right > width + 1 && !element.parentElement.closest(".scroll");
    if (isWide) { wide.push(element.outerHTML.slice(0, 99)); }
    var hasText = Array.from(element.childNodes).some(function (node) {
      return node.nodeType === 3 && node.textContent.trim();
    });
    if (!hasText) { return; }
    var style = frame.getComputedStyle(element);
    var text = luminance(element instanceof frame.SVGElement ? style.fill : style.color);
    var ground = luminance(background(element));
    var contrast = (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    if (contrast < 4.5) { faint.push(contrast.toFixed(2) + " " + element.outerHTML.slice(0, 99)); }
  });
  return {
    wide: wide, faint: faint, pageWidth: page.documentElement.scrollWidth, width: width,
    requests: frame.performance.getEntriesByType("resource").map(function (entry) { return entry.name; }),
    dark: frame.matchMedia("(prefers-color-scheme: dark)").matches,
    ready: page.querySelectorAll("table.ready").length,
    landmarks: ["header", "main", "footer"].map(function (name) {
      return page.querySelectorAll("body > " + name).length;
    })
  };
}
"""


def open_page(page: str, folder: Path, *, width: int, dark: bool = False, script: str = "inspect(page, frame)") -> Any:
    """The value of a JavaScript expression over `page` (document) and `frame` (its window), once the page stands in a
    frame so wide. Fails where the browser's console has anything to say."""
    assert CHROMIUM is not None
    folder.mkdir(parents=True, exist_ok=True)
    opened = folder / "opened.html"
    opened.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="frame" width="{width}" height="900" style="border: 0" srcdoc="{html.escape(page)}"></iframe>
<pre id="result"></pre>
<script>{INSPECT}
document.getElementById("frame").onload = function () {{
  var frame = this.contentWindow, page = this.contentDocument;
  document.getElementById("result").textContent = JSON.stringify({script});
}};</script>""",
        "utf-8",
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},1000"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--enable-logging=stderr", "--v=0"]
    ended = subprocess.run(
        [*command, "--virtual-time-budget=5000", "--dump-dom", opened.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in ended.stderr.decode("utf-8", "replace").splitlines() if "CONSOLE" in line]
    assert console == []
    result = re.search(r'<pre id="result">(.*?)</pre>', ended.stdout.decode("utf-8"), re.DOTALL)
    assert result is not None
    return json.loads(html.unescape(result[1]))
