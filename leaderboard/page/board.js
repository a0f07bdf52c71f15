// The page is whole without this script: it shows one board at a time, and sorts and filters its rows.
"use strict";

const root = document.documentElement;
root.classList.add("js");

// Where pages may not keep anything, the choice lasts as long as the page.
const kept = {
  get() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  },
  set(theme) {
    try {
      localStorage.setItem("theme", theme);
    } catch {
      /* as said above */
    }
  },
};

function setTheme(theme) {
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
}

setTheme(kept.get());

function isDark() {
  const theme = root.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function startTheme() {
  const button = document.getElementById("theme");
  const name = () => (button.textContent = isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    kept.set(root.dataset.theme);
    name();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
  name();
}

const boards = () => [...document.querySelectorAll("section.board")];
const current = () => document.querySelector("section.board.current");

function fill(select, values, chosen) {
  select.replaceChildren(...values.map((value) => new Option(value, value, value === chosen, value === chosen)));
  select.closest("label").hidden = !values.length;
}

function show(board) {
  for (const other of boards()) other.classList.toggle("current", other === board);
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.tab === board.dataset.tab) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const tab = boards().filter((other) => other.dataset.tab === board.dataset.tab && other.dataset.criterion);
  const settings = [...new Set(tab.map((other) => other.dataset.setting))];
  const criteria = tab.filter((other) => other.dataset.setting === board.dataset.setting);
  fill(document.getElementById("setting"), settings, board.dataset.setting);
  fill(document.getElementById("criterion"), criteria.map((other) => other.dataset.criterion), board.dataset.criterion);
  document.getElementById("controls").hidden = !board.dataset.criterion;
  filter();
}

// The board of a tab that is most like the one that is shown.
function nearest(tab, setting, criterion) {
  const likeness = (board) =>
    2 * (setting !== undefined && board.dataset.setting === setting) + (board.dataset.criterion === criterion);
  const found = boards().filter((board) => board.dataset.tab === tab);
  return found.reduce((best, board) => (likeness(board) > likeness(best) ? board : best));
}

function go(board) {
  if (`#${board.id}` !== location.hash) history.pushState(null, "", `#${board.id}`);
  show(board);
}

// An address that names another place of the page, as the link that skips to the table does, changes no board.
function fromAddress() {
  const name = location.hash.slice(1);
  const board = document.getElementById(name)?.closest("section.board");
  const first = boards().find((other) => other.dataset.criterion) ?? boards()[0];
  show(board ?? ((name && current()) || first));
}

function startChoices() {
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(nearest(link.dataset.tab, undefined, current().dataset.criterion));
    });
  }
  document.getElementById("criterion").addEventListener("change", (event) => {
    const { tab, setting } = current().dataset;
    go(nearest(tab, setting, event.target.value));
  });
  document.getElementById("setting").addEventListener("change", (event) => {
    const { tab, criterion } = current().dataset;
    go(nearest(tab, event.target.value, criterion));
  });
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("filter").addEventListener("input", filter);
  window.addEventListener("popstate", fromAddress);
  window.addEventListener("hashchange", fromAddress);
}

function filter() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...current().querySelectorAll("table.standings > tbody")];
  for (const row of rows) row.hidden = !words.every((word) => row.dataset.words.includes(word));
  const left = rows.filter((row) => !row.hidden).length;
  const said = rows.length === 1 ? "1 method" : `${rows.length} methods`;
  document.getElementById("count").textContent = left < rows.length ? `${left} of ${said}` : said;
  const none = current().querySelector("p.none");
  if (none) none.hidden = left > 0 || rows.length === 0;
}

function sort(heading) {
  const table = heading.closest("table");
  const headings = [...heading.parentElement.children];
  const column = headings.indexOf(heading);
  const first = heading.querySelector("button").dataset.order ?? table.dataset.best;
  const opposite = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? opposite : first;
  for (const other of headings) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const isText = heading.classList.contains("method");
  const value = (row) => {
    const said = row.querySelector("tr.entry").children[column].dataset.value;
    return said === "" ? null : isText ? said : Number(said);
  };
  const compare = (a, b) => (isText ? a.localeCompare(b, "en") : a - b) * (order === "ascending" ? 1 : -1);
  const rows = [...table.tBodies].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    // What has no value stays at the end, whatever the order.
    return a === null || b === null ? (a === null) - (b === null) : compare(a, b);
  });
  table.append(...rows);
}

function startTables() {
  for (const button of document.querySelectorAll("table.standings > thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }
  for (const button of document.querySelectorAll("button.toggle")) {
    const detail = document.getElementById(button.getAttribute("aria-controls"));
    const open = (is) => {
      button.setAttribute("aria-expanded", is);
      detail.hidden = !is;
    };
    open(false);
    button.addEventListener("click", () => open(detail.hidden));
  }
}

document.addEventListener("DOMContentLoaded", () => {
  startTheme();
  startTables();
  startChoices();
  fromAddress();
});
