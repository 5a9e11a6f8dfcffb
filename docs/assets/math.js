// Typeset the formulas of a page: once, or after each in-site navigation where the theme has one.
const typeset = () => renderMathInElement(document.body, {delimiters: [
  {left: "\\[", right: "\\]", display: true}, {left: "\\(", right: "\\)", display: false}]});
if (window.document$) document$.subscribe(typeset); else document.addEventListener("DOMContentLoaded", typeset);
