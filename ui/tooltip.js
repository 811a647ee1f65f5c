/* One tooltip for all words: a box per word would be clipped by the conversation's edge
   and slow long conversations down. Text only, never markup. */
() => {
  const box = document.createElement("div");
  box.id = "word-tip";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);

  const show = (word) => {
    box.textContent = word.dataset.tip;
    box.hidden = false;
    const at = word.getBoundingClientRect();
    const size = box.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left), window.innerWidth - size.width - 8);
    const above = at.top - size.height - 8;
    box.style.left = `${left}px`;
    box.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  };
  const hide = () => { box.hidden = true; };
  const wordOf = (event) => event.target.closest?.("[data-tip]");

  for (const enter of ["mouseover", "focusin"]) {
    document.addEventListener(enter, (event) => {
      const word = wordOf(event);
      if (word) show(word); else hide();
    });
  }
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}
