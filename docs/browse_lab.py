"""JupyterLab in a real browser: the home page, and notebooks whose sliders change their pictures.

    python docs/browse_lab.py   # needs JupyterLab, Chromium and `pip install playwright`

Without them it says what is missing and checks nothing. The notebooks are copies, and JupyterLab
starts with settings of its own: no file of the checkout or of your home folder changes. No request
may leave the machine, be it the browser's, the server's or a kernel's.
"""
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from browse import FLAGS, chromium, watched

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("049_widgets", "200_path")   # opened by the links of the home page
QUIET = {"fetchNews": "false", "checkForUpdates": False}   # what JupyterLab itself would ask for
SECONDS = 120   # to wait for anything: the machine may be busy

# Python runs this wherever it starts: server and kernels write down whom they would speak to.
GUARD = """import sys
def note(event, args):
    if event not in ("socket.connect", "socket.getaddrinfo"): return
    host = args[event == "socket.connect"]
    if isinstance(host, tuple): host = host[0]
    if not str(host).startswith(("127.", "::1", "localhost", "None")):
        with open({path!r}, "a") as file: print(f"{{sys.argv[0]}} asks for {{host}}", file=file)
open({path!r}, "a").close()
sys.addaudithook(note)
"""

OPENED = """name => {
    const tab = window.jupyterapp?.shell.currentWidget;
    return tab?.context?.path.endsWith(name) && tab.context.isReady && tab.sessionContext.isReady;
}"""
RUN_ALL = """seconds => Promise.race([
    jupyterapp.commands.execute('notebook:run-all-cells'),   // the menu's; false where a cell fails
    new Promise((_, stop) => setTimeout(() => stop(`still runs after ${seconds} s`), seconds*1000)),
])"""
ERRORS = """[...jupyterapp.shell.currentWidget.content.model.cells]
    .flatMap(cell => cell.outputs?.toJSON() ?? [])
    .filter(output => output.output_type == 'error')
    .map(output => `${output.ename}: ${output.evalue}`)"""
BACK = "jupyterapp.commands.execute('application:activate-previous-tab')"
LOADED = "[...document.querySelectorAll('.jp-Notebook img')].every(image => image.complete)"
SHOWN = """async cell => {
    const images = [...cell.querySelectorAll('img')].filter(i => i.offsetParent && i.naturalWidth);
    return Promise.all(images.map(async i => (await fetch(i.src)).text()));
}"""


def copy_notebooks(folder):
    "The home page and the pages, into a new `folder`"
    folder.mkdir()
    skip = shutil.ignore_patterns(".ipynb_checkpoints", "_*")
    for name in ("nbs", "index_files"): shutil.copytree(ROOT/name, folder/name, ignore=skip)
    for name in ("index.ipynb", "settings.ini"): shutil.copy(ROOT/name, folder)


def environment(folder):
    "Variables for a JupyterLab that keeps its files in `folder` and asks nobody for news"
    quiet = folder/"config/lab/user-settings/@jupyterlab/apputils-extension"
    quiet.mkdir(parents=True)
    (quiet/"notification.jupyterlab-settings").write_text(json.dumps(QUIET))
    guard = folder/"guard"
    guard.mkdir()
    (guard/"sitecustomize.py").write_text(GUARD.format(path=str(folder/"asked")))
    paths = [str(guard), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder/"config"),
        "JUPYTER_DATA_DIR": str(folder/"data"),
        "JUPYTER_RUNTIME_DIR": str(folder/"runtime"),
        "IPYTHONDIR": str(folder/"ipython"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "IN_TEST": "1",   # so that nbdev_export() in a notebook's last cell does nothing
    }


def answers(address):
    "Whether a server answers there"
    try: return urlopen(address, timeout=5).status == 200
    except OSError: return False


@contextmanager
def jupyterlab(folder, env):
    "Address and token of a JupyterLab that serves `folder`; it is ended afterwards, come what may"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = [
        "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    origin = f"http://127.0.0.1:{port}"
    log = folder.parent/"log"
    with open(log, "w") as file:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=folder,
                                  env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            end = time.monotonic() + SECONDS
            while not answers(f"{origin}/api/status?token={token}"):
                if server.poll() is not None or time.monotonic() > end:
                    sys.exit(f"JupyterLab does not start:\n{log.read_text()}")
                time.sleep(.1)
            yield origin, token
        finally:
            server.terminate()   # it ends its kernels first
            try: server.wait(20)
            except subprocess.TimeoutExpired: server.kill()


def home_page(tab, address, faults):
    "The home page has its title and all its pictures, which are counted"
    tab.goto(address)
    tab.wait_for_function(OPENED, arg="index.ipynb")
    title = tab.locator(".jp-Notebook h1").first.inner_text().strip()
    if not title.startswith("stiv_nb"): faults.append(f"the home page's title is {title!r}")
    cells = tab.locator(".jp-Notebook .jp-Cell")
    for i in range(cells.count()): cells.nth(i).scroll_into_view_if_needed()
    tab.wait_for_function(LOADED)
    images = tab.locator(".jp-Notebook img")
    broken = images.evaluate_all("all => all.filter(i => !i.naturalWidth).map(i => i.src)")
    faults += [f"the home page lacks {source[:100]}" for source in broken]
    if not images.count(): faults.append("the home page has no pictures")
    return images.count()


def changes(cell, slider):
    "Whether another picture is shown when `slider` is moved, by the keyboard"
    before = cell.evaluate(SHOWN)
    for key in ("ArrowRight", "ArrowLeft"):   # it may stand at an end
        slider.press(key)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            after = cell.evaluate(SHOWN)
            if before and after and after != before: return True
            time.sleep(.05)
    return False


def notebook(tab, name, faults):
    "All cells of a notebook run, and its sliders, which are counted, change pictures"
    tab.locator(f".jp-Notebook a[href*='{name}.ipynb']:visible").first.click()
    tab.wait_for_function(OPENED, arg=f"{name}.ipynb")
    ran = tab.evaluate(RUN_ALL, SECONDS)
    errors = tab.evaluate(ERRORS)
    if errors or not ran: faults.append(f"{name} stops: {errors}")
    cells = tab.locator(".jp-CodeCell:visible", has=tab.locator("[role=slider]")).all()
    sliders = [(cell, slider) for cell in cells for slider in cell.locator("[role=slider]").all()]
    for i, (cell, slider) in enumerate(sliders, 1):
        if not changes(cell, slider): faults.append(f"{name}: slider {i} changes no picture")
    if not sliders: faults.append(f"{name} has no slider")
    tab.evaluate(BACK)
    return len(sliders)


def main():
    try: from playwright.sync_api import Error, sync_playwright
    except ImportError: return print("skipped: pip install playwright")
    found = chromium()
    if not found: return print("skipped: there is no Chromium")
    if not find_spec("jupyterlab"): return print("skipped: pip install jupyterlab")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))   # and JupyterLab with it
    start = time.monotonic()
    faults, moved = [], []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as tmp, sync_playwright() as p:
        folder = Path(tmp).resolve()
        copy_notebooks(folder/"stiv_nb")
        with jupyterlab(folder/"stiv_nb", environment(folder)) as (origin, token):
            browser = p.chromium.launch(executable_path=found, args=FLAGS)
            tab = watched(browser, origin, faults, viewport=dict(width=1400, height=1000))
            tab.set_default_timeout(SECONDS*1000)
            try:
                address = f"{origin}/lab/tree/index.ipynb?token={token}"
                images = home_page(tab, address, faults)
                for name in NOTEBOOKS: moved.append(f"{notebook(tab, name, faults)} of {name}")
            except Error as error: faults.append(f"{tab.url}: {error}")
            browser.close()
        faults += (folder/"asked").read_text().splitlines()
    if faults: sys.exit("\n".join(dict.fromkeys(faults)))
    seconds = time.monotonic() - start
    print(f"home page, {images} pictures; sliders moved: {', '.join(moved)}; {seconds:.0f} s")


if __name__ == "__main__": main()
