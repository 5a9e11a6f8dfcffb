"""The built site in a real browser: layout, search, schemes, folds, and the model in the page.

    python docs/browse.py   # after `make docs`; needs Chromium and `pip install playwright`

Without either it says what is missing and checks nothing. No request may leave the machine.
"""
import shutil
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SITE = Path(__file__).parent.parent / "_site/site"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PAGES = ("index", "in_one_drawing", "sampler", "recipe", "by_hand", "export")
WIDTHS = (1440, 390)
CONTROLS = (("solver", 1440), ("condition", 1440), ("guidance", 390))   # pages, and widths


def chromium():
    "The path of a browser; None where there is none"
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Quiet(SimpleHTTPRequestHandler):
    "Serves the site and says nothing of it"
    def log_message(self, *args): pass


def watched(browser, origin, faults, **kw):
    "A page that notes errors of its console and requests to elsewhere"
    tab = browser.new_page(**kw)
    def on_console(message):
        if message.type == "error": faults.append(f"{tab.url}: console: {message.text}")
    def on_request(request):
        if not request.url.startswith((origin, "data:", "blob:", "file:")):
            faults.append(f"{tab.url}: asks for {request.url}")
    tab.on("console", on_console)
    tab.on("pageerror", lambda error: faults.append(f"{tab.url}: {error}"))
    tab.on("request", on_request)
    return tab


def layout(browser, origin, faults):
    "No page is wider than the window"
    for width in WIDTHS:
        tab = watched(browser, origin, faults, viewport=dict(width=width, height=900))
        for name in PAGES:
            tab.goto(f"{origin}/{name}.html")
            wide = tab.evaluate("document.documentElement.scrollWidth")
            if wide > width + 1: faults.append(f"{name}.html is {wide} pixels wide at {width}")
        tab.close()


def headers(browser, origin, faults):
    "Each page says what it is, cites the paper, and leads to Colab and to a copy that is there"
    tab = watched(browser, origin, faults)
    about = set()
    for name in PAGES:
        tab.goto(f"{origin}/{name}.html")
        about.add(tab.locator("meta[name=description]").get_attribute("content"))
        read = "all => all.map(a => [a.text, a.href])"
        links = dict(tab.locator(".nbactions a").evaluate_all(read))
        if not links.get("Open in Colab", "").endswith(f"{name}.ipynb"):
            faults.append(f"{name}.html does not lead to Colab")
        copied = tab.request.get(links["Download the notebook"])
        if "Only in this copy" not in copied.text(): faults.append(f"{name}.html has no copy")
        if name == "sampler" and not any("arxiv" in url and "§2.3.2" in text
                                         for text, url in links.items()):
            faults.append("sampler.html does not cite the paper's §2.3.2")
    if len(about) < len(PAGES): faults.append(f"pages share a description: {about}")
    tab.close()


def search(browser, origin, faults):
    "Finds a page, over a server and from a file"
    from playwright.sync_api import TimeoutError
    for start in (origin, SITE.as_uri()):
        tab = watched(browser, origin, faults)
        tab.goto(f"{start}/index.html", wait_until="networkidle")
        tab.keyboard.press("Control+k")
        tab.wait_for_timeout(1000)   # the box slides in
        tab.keyboard.type("renorm")
        try: tab.wait_for_selector("text=/[1-9][0-9]* results/", timeout=15_000)
        except TimeoutError: faults.append(f"search finds nothing over {start.split(':')[0]}")
        tab.close()


def schemes(browser, origin, faults):
    "The site follows the system's scheme, and drawings follow the site's"
    inks = {}
    for scheme in ("light", "dark"):
        tab = watched(browser, origin, faults, color_scheme=scheme)
        tab.goto(f"{origin}/in_one_drawing.html")
        ink = "getComputedStyle(document.querySelector('svg.drawing text')).fill"
        inks[scheme] = tab.evaluate(ink)
        found = tab.evaluate("document.body.dataset.mdColorScheme")
        wanted = dict(light="default", dark="slate")[scheme]
        if found != wanted: faults.append(f"the {scheme} scheme is shown as {found}")
        if scheme == "light":
            tab.click("label[title=Dark]")
            inks["switched"] = tab.evaluate(ink)
        tab.close()
    if not inks["light"] != inks["dark"] == inks["switched"]:
        faults.append(f"drawings keep their ink: {inks}")


def folds(browser, origin, faults):
    "Tests and code are folded, and open with a click"
    tab = watched(browser, origin, faults)
    tab.goto(f"{origin}/sampler.html")
    first = tab.locator("details.example").first
    if first.evaluate("d => d.open"): faults.append("tests are not folded")
    first.locator("summary").click()
    if not first.locator("pre").is_visible(): faults.append("a fold does not open")
    tab.close()


def strips(browser, origin, faults):
    "A strip plays and stops at its button; where less motion is asked for, it starts stopped"
    for less in ("no-preference", "reduce"):
        tab = watched(browser, origin, faults, reduced_motion=less)
        tab.goto(f"{origin}/shapes.html")
        box = tab.locator(".stiv-strip-of").first
        box.scroll_into_view_if_needed()
        box.locator("canvas").first.wait_for()
        def plays():
            look = "c => c.toDataURL()"
            seen = {box.locator("canvas").first.evaluate(look)}
            for _ in range(4):   # the last frame stays for half a second
                tab.wait_for_timeout(300)
                seen.add(box.locator("canvas").first.evaluate(look))
            return len(seen) > 1
        found = [plays()]
        box.locator("button").click()
        found.append(plays())
        if found != ([True, False] if less == "no-preference" else [False, True]):
            faults.append(f"with motion '{less}', a strip plays before and after a click: {found}")
        tab.close()


def moves(box):
    "For each slider and group of buttons: what to press on the keyboard, and what takes it back"
    for slider in box.locator("[role=slider]").all():
        at_end = slider.evaluate("s => s.ariaValueNow == s.ariaValueMax")
        keys = ("ArrowLeft", "ArrowRight") if at_end else ("ArrowRight", "ArrowLeft")
        yield [(slider, key) for key in keys]
    for group in box.locator(".widget-toggle-buttons").all():
        at = group.evaluate("g => [...g.querySelectorAll('button')].findIndex("
                            "b => b.classList.contains('mod-active'))")
        yield [(group.locator("button").nth(i), "Space") for i in (0 if at else 1, at)]


def widgets(browser, origin, faults):
    "Each slider and button of a figure shows another picture, and takes it back, by the keyboard"
    for name, width in CONTROLS:
        tab = watched(browser, origin, faults, viewport=dict(width=width, height=900))
        tab.goto(f"{origin}/{name}.html")
        box = tab.locator(".nbout", has=tab.locator(".widget-label")).first
        box.locator("img").first.wait_for()
        def shown():
            tab.wait_for_timeout(300)
            top = box.locator("img:visible").first   # its bytes: an address is new each time
            return top.evaluate("async i => (await fetch(i.src)).text()")
        found = [*moves(box)]
        if not found: faults.append(f"{name}.html has no controls")
        for i, ((control, key), (back, undo)) in enumerate(found, 1):
            start = shown()
            control.press(key)
            if shown() == start: faults.append(f"{name}.html: control {i} is stuck")
            back.press(undo)
            if shown() != start: faults.append(f"{name}.html: control {i} does not come back")
        tab.close()


def play(browser, origin, faults):
    "The model in the page draws what the library draws; says how long it took"
    if not (SITE / "assets/play/runtime").is_dir(): return "no runtime, so no model in the page"
    import torch
    from stiv_nb import load
    from stiv_nb.data.video import to_uint8
    tab = watched(browser, origin, faults)
    tab.goto(f"{origin}/export.html")
    tab.click("text=Load the model into this page")
    drawn = "document.querySelector('.stiv-play').dataset.drawn == '{}'"
    tab.wait_for_function(drawn.format(1), timeout=120_000)
    tab.fill(".stiv-prompt input", "a blue square moving up")
    tab.fill("input[type=number]", "5")
    tab.click("button[type=submit]")
    tab.wait_for_function(drawn.format(2), timeout=120_000)
    said = tab.inner_text(".stiv-status")
    film = torch.tensor(tab.evaluate("[...document.querySelector('.stiv-play').film]"))
    pipe = load("toy", device="cpu")
    true = pipe("a blue square moving up", seed=5, progress=False).frames
    off = ((to_uint8(film.view(true.shape)).int() - true.int()).abs() > 1).float().mean().item()
    if off > .01: faults.append(f"{off:.1%} of the page's pixels are not the library's")
    tab.fill(".stiv-prompt input", "a purple circle")
    tab.click("button[type=submit]")
    tab.wait_for_function("document.querySelector('.stiv-status').innerText.includes('purple')")
    tab.close()
    return said


def main():
    try: from playwright.sync_api import sync_playwright
    except ImportError: return print("skipped: pip install playwright")
    found = chromium()
    if not found: return print("skipped: there is no Chromium")
    if not SITE.is_dir(): sys.exit("there is no site: run `make docs`")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    origin = f"http://127.0.0.1:{server.server_port}"
    faults = []
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=FLAGS)
        checks = (layout, headers, search, schemes, folds, strips, widgets)
        for check in checks: check(browser, origin, faults)
        said = play(browser, origin, faults)
        browser.close()
    server.shutdown()
    if faults: sys.exit("\n".join(dict.fromkeys(faults)))
    names = ", ".join(check.__name__ for check in checks[1:])
    print(f"{len(PAGES)} pages at {len(WIDTHS)} widths, {names}; {said}")


if __name__ == "__main__": main()
