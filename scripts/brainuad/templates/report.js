"use strict";

// Sort a table by the column of the clicked head: numbers largest first, text from A on; a second click turns it round.
function sortBy(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const numeric = head.classList.contains("number");
  const before = head.getAttribute("aria-sort");
  const descending = before ? before === "ascending" : numeric;
  const key = (row) => {
    const cell = row.children[column];
    return numeric ? cell.dataset.value ?? "" : cell.textContent;
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y);
    return descending ? -order : order;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
}

for (const button of document.querySelectorAll("tr.heads button"))
  button.addEventListener("click", () => sortBy(button.parentNode));

// A click on a picture shows it in its own size, or as wide as the window; Escape or a second click closes it.
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img");
for (const button of document.querySelectorAll("button.picture"))
  button.addEventListener("click", () => {
    const image = button.firstElementChild;
    large.src = image.src;
    large.alt = image.alt;
    dialog.showModal();
    dialog.scrollTo(0, 0);
  });
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => large.removeAttribute("src"));

// On a small window the contents begin closed; on paper nothing is closed.
const contents = document.querySelector("nav details");
if (window.matchMedia("(max-width: 1100px)").matches) contents.open = false;
window.addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("main details")) part.open = true;
});

// The contents mark the section that is read.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  },
  { rootMargin: "-10% 0px -80% 0px" },
);
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);
