"""Looks at a page with a headless browser, 360 pixels wide."""

import html
import json
import re
import shutil
import subprocess

import pytest

CATCH = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...told) => errors.push(told.join(" "));
</script>"""

PROBE = """<script>
const widest = () => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth);
const doubles = (names) => names.filter((name, i) => names.indexOf(name) < i);
addEventListener("load", () => {
  const found = { width: innerWidth, dark: getComputedStyle(document.body).backgroundColor };
  const all = (selector) => [...document.querySelectorAll(selector)];
  for (const one of all("details")) one.open = true;
  found.needed = widest();
  // What a keyboard cannot scroll, or what says not of what it is.
  found.unreached = all("*").filter((one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX)
    && (one.tabIndex !== 0 || one.getAttribute("role") !== "region" || !one.getAttribute("aria-label")))
    .map((one) => one.outerHTML);
  found.unlabelled = all("[role=img], [role=region], [role=group], select")
    .filter((one) => !one.getAttribute("aria-label") && !one.closest("label")).length;
  found.alike = doubles(all("[role=region]").map((one) => one.getAttribute("aria-label")));
  found.unscoped = all("th").filter((one) => !one.scope || !one.textContent.trim()).map((one) => one.outerHTML);
  found.figures = all(".drawing").map((one) => one.clientWidth);
  found.doubled = doubles(all("[id]").map((one) => one.id));
  OWN
  const block = document.createElement("div");
  block.style.cssText = "width: 400px; height: 9px";
  document.body.append(block);
  found.overflown = widest();
  found.errors = errors;
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""

FRAME = """<!doctype html><style>body { margin: 0 }</style><pre id="found"></pre><script>
addEventListener("message", (event) => { document.getElementById("found").textContent = event.data; });
</script><iframe src="probed.html#FRAGMENT" style="width: 360px; height: 800px; border: 0"></iframe>"""


def look(page, folder, *flags, own="", fragment=""):
    """What a browser finds on a page: in a frame, since a window of its own may not be so narrow.

    Args:
      page: its HTML.
      folder: for what the browser reads and writes.
      *flags: of the browser.
      own: script that adds to `found`.
      fragment: of the page's address.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    probe = PROBE.replace("OWN", own)
    probed = page.replace("<head>", f"<head>{CATCH}", 1).replace("</body>", f"{probe}</body>", 1)
    (folder / "probed.html").write_text(probed, "utf-8")
    (folder / "frame.html").write_text(FRAME.replace("FRAGMENT", fragment), "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=800,900", "--virtual-time-budget=5000", *flags, "--dump-dom"]
    dumped = subprocess.run(
        [*command, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    (told,) = re.findall(r'<pre id="found">(.*?)</pre>', dumped, re.DOTALL)
    return json.loads(html.unescape(told))
