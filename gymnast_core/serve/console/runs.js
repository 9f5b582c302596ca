// The page of what happened: a list to filter and sort, and two or more of it side by side.
"use strict";

const $ = (id) => document.getElementById(id);
const PAGE_ROWS = 100, MOST = 6;
let runs = [], sort = "began", down = true, rows = PAGE_ROWS;
const chosen = new Set();

const failed = (run) => run.problem || ["failure", "aborted", "unfinished", "refused", "rolled back"].includes(run.outcome);

function wanted() {
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = runs.filter((run) => (!$("kind").value || run.kind === $("kind").value) && (!$("outcome").value || run.outcome === $("outcome").value)
    && run.began.startsWith($("day").value) && words.every((word) => `${run.task} ${run.policy} ${run.path} ${run.made}`.toLowerCase().includes(word)));
  const value = (run) => (sort === "success" ? (run.success === null ? -1 : run.success) : run[sort]);
  found.sort((one, other) => (value(one) < value(other) ? -1 : value(one) > value(other) ? 1 : 0) * (down ? -1 : 1));
  if ($("failures").checked) found.sort((one, other) => Boolean(failed(other)) - Boolean(failed(one)));
  return found;
}

function show() {
  const found = wanted();
  $("count").textContent = `${found.length} of ${runs.length}`;
  $("list").tBodies[0].replaceChildren(...found.slice(0, rows).map(rowOf));
  $("more").hidden = found.length <= rows;
  $("compare").disabled = chosen.size < 2 || chosen.size > MOST;
  $("compare").textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
  document.querySelectorAll("[data-sort]").forEach((button) => button.parentNode.setAttribute("aria-sort", button.dataset.sort === sort ? (down ? "descending" : "ascending") : "none"));
}

function rowOf(run) {
  const box = make("input", { type: "checkbox", "aria-label": `compare ${run.path}`, onchange: () => { if (box.checked) chosen.add(run.path); else chosen.delete(run.path); show(); } });
  box.checked = chosen.has(run.path);
  const picture = run.picture ? make("img", { class: "thumb", loading: "lazy", alt: "", src: `api/runs/picture?path=${encodeURIComponent(run.path)}` }) : "";
  const origin = Object.entries(run.lineage).map(([name, value]) => `${name}: ${value}`).join("; ");
  return make("tr", {}, make("td", {}, box), make("td", {}, picture), make("td", { text: run.began.slice(0, 16).replace("T", " ") }), make("td", { text: run.kind }),
    make("td", { class: failed(run) ? "bad" : run.outcome === "success" || run.outcome === "accepted" ? "good" : "", text: run.problem ? "unreadable" : run.outcome }),
    make("td", { text: run.success === null ? "" : run.success.toFixed(2) }), make("td", { text: run.task }),
    make("td", { text: `${origin}${run.made ? ` → ${run.made}` : ""}` }),
    make("td", {}, make("button", { class: "link", text: run.path, onclick: () => open(run) })));
}

function open(run) {
  $("shown").hidden = false;
  $("t-shown").textContent = run.path;
  const facts = [["kind", run.kind], ["outcome", run.problem || run.outcome], ["task", run.task], ["policy", run.policy], ["made", run.made],
    ...Object.entries(run.lineage).map(([name, value]) => [`made from: ${name}`, value]), ...Object.entries(run.figures).map(([name, value]) => [name.replaceAll("_", " "), brief(value)])];
  $("facts").replaceChildren(...facts.filter(([, value]) => value !== "").flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  $("page").hidden = !run.report;
  $("page").src = run.report ? `api/runs/report?path=${encodeURIComponent(run.path)}` : "about:blank";
  $("shown").scrollIntoView();
}

function compare() {
  $("shown").hidden = false;
  $("t-shown").textContent = `${chosen.size} side by side`;
  $("facts").replaceChildren();
  $("page").hidden = false;
  $("page").src = `api/runs/compare?${[...chosen].map((path) => `path=${encodeURIComponent(path)}`).join("&")}`;
  $("shown").scrollIntoView();
}

async function load() {
  const answer = await fetch("api/runs", { cache: "no-store" });
  const content = await answer.json();
  if (!answer.ok) { $("count").textContent = content.detail; return; }
  runs = content.runs;
  for (const name of ["kind", "outcome"]) {
    const values = [...new Set(runs.map((run) => run[name]))].filter(Boolean).sort();
    $(name).append(...values.map((value) => make("option", { value, text: value })));
  }
  show();
}

for (const id of ["words", "kind", "outcome", "day", "failures"]) $(id).addEventListener("input", () => { rows = PAGE_ROWS; show(); });
document.querySelectorAll("[data-sort]").forEach((button) => button.addEventListener("click", () => {
  down = sort === button.dataset.sort ? !down : ["began", "success"].includes(button.dataset.sort);
  sort = button.dataset.sort;
  show();
}));
$("more").addEventListener("click", () => { rows += PAGE_ROWS; show(); });
$("compare").addEventListener("click", compare);
$("theme").addEventListener("click", () => setTheme(true));
setTheme(false);
load();
