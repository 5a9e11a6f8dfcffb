// Film strips play beside their frames, and every moving picture of the page stops at one button.
// A reader who asks the system for less motion finds all of them stopped.
(() => {
  const RATE = 6, HOLD = 3;                       // frames a second; ticks that the last one stays
  const key = "stiv-stopped";
  const kept = () => { try { return localStorage.getItem(key); } catch { return null; } };
  const keep = (value) => { try { localStorage.setItem(key, value); } catch { /* for this page only */ } };
  const less = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let stopped = kept() === null ? less : kept() === "yes";
  const movers = [], buttons = [];                // functions of a tick; all play buttons
  const stills = [];

  const show = () => {
    for (const button of buttons) {
      button.textContent = stopped ? "▶" : "❚❚";
      button.setAttribute("aria-label", stopped ? "play the clips of this page" : "stop the clips of this page");
    }
    for (const img of stills) img.src = stopped ? img.dataset.still : img.dataset.moving;
  };
  const button = () => {
    const b = document.createElement("button");
    b.type = "button";
    b.className = "stiv-stop";
    b.onclick = () => { stopped = !stopped; keep(stopped ? "yes" : "no"); show(); };
    buttons.push(b);
    return b;
  };

  const strip = (box) => {
    const images = [...box.querySelectorAll("img")];   // of both schemes, with the same frames
    const img = images.find(i => i.offsetParent) || images[0];
    const rows = JSON.parse(box.dataset.rows);
    const source = new Image();
    let seen = false;
    new IntersectionObserver((entries) => { seen = entries[0].isIntersecting; }).observe(box);
    source.onload = () => {
      const W = source.naturalWidth, H = source.naturalHeight;
      const gutter = Math.max(...rows.map(r => r[2])) + 12, all = W + gutter;
      box.style.maxWidth = `${all}px`;
      for (const shown of images) {
        Object.assign(shown.style, {marginLeft: `${100*gutter/all}%`, width: `${100*W/all}%`});
      }
      const canvases = rows.map(([x, y, w, h]) => {
        const canvas = document.createElement("canvas");
        Object.assign(canvas, {width: w, height: h});
        canvas.setAttribute("aria-hidden", "true");
        Object.assign(canvas.style, {top: `${100*y/H}%`, width: `${100*w/all}%`});
        box.append(canvas);
        return canvas.getContext("2d");
      });
      box.append(button());
      const draw = (tick) => rows.forEach(([x, y, w, h, n, step], i) => {
        const frame = Math.min(tick % (n + HOLD), n - 1);
        canvases[i].drawImage(source, Math.round(x + frame*step), y, w, h, 0, 0, w, h);
      });
      draw(0);
      movers.push((tick) => { if (seen) draw(tick); });
      show();
    };
    source.src = img.getAttribute("src");
  };

  // Figures with sliders are drawn late and say nothing: labels and what the page knows become names
  const name = (box) => {
    for (const handle of box.querySelectorAll("[role=slider]")) {
      const slider = handle.closest(".widget-slider");   // its label stands in it or before it
      const said = slider.querySelector(".widget-label").textContent || slider.previousElementSibling?.textContent;
      handle.setAttribute("aria-label", (said || "").trim());
    }
    for (const img of box.querySelectorAll("img")) img.alt = box.dataset.alt;
  };

  const start = () => {
    for (const box of document.querySelectorAll(".nbout[data-alt]")) {
      new MutationObserver(() => name(box)).observe(box, {childList: true, subtree: true});
    }
    if (location.protocol === "file:") for (const play of document.querySelectorAll(".stiv-play")) {
      play.prepend("A page that is opened as a file can't run the model. In the site's folder, " +
                   "start python -m http.server, and open localhost:8000/export.html.");
    }
    document.querySelectorAll(".stiv-strip-of").forEach(strip);
    document.querySelectorAll("img[data-still]").forEach((img) => {
      img.dataset.moving = img.getAttribute("src");
      stills.push(img);
      const box = document.createElement("span");
      box.className = "stiv-moving";
      img.replaceWith(box);
      box.append(img, button());
    });
    show();
    let tick = 0;
    setInterval(() => { if (!stopped) { tick++; movers.forEach(m => m(tick)); } }, 1000/RATE);
  };
  document.addEventListener("DOMContentLoaded", start);
})();
