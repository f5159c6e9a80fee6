"use strict";
// Shows the rows that have all the words, and opens what holds them.
const box = document.getElementById("search");
const found = document.getElementById("found");
const parts = Array.from(document.querySelectorAll("details.part"), (part) => ({
  part,
  name: part.dataset.name.toLowerCase(),
  rows: Array.from(part.querySelectorAll("tbody tr"), (row) => ({ row, text: row.textContent.toLowerCase() })),
}));

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { part, name, rows } of parts) {
    let shown = 0;
    for (const { row, text } of rows) {
      const fits = words.every((word) => name.includes(word) || text.includes(word));
      row.hidden = !fits;
      shown += fits;
    }
    part.hidden = shown === 0;
    part.open = words.length > 0 && shown > 0;
    count += shown;
  }
  found.textContent = words.length > 0 ? `${count} rows` : "";
}

// A link leads to what may be closed or not shown.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  const part = target.closest("details");
  if (part) {
    part.hidden = false;
    part.open = true;
  }
  target.hidden = false;
  target.scrollIntoView();
}

box.closest("p").hidden = false;
box.addEventListener("input", search);
addEventListener("hashchange", reveal);
reveal();
