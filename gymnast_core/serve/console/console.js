// The page of the running station: asks what happens, shows it, and sends what the buttons ask for.
"use strict";

const $ = (id) => document.getElementById(id);
const TOKEN = "gymnast console token";
let station = null, state = null, records = null, recordsTag = "", trail = [], busyUntil = 0, lastHeard = Date.now();

// Access. The token comes in the part of the address that a browser sends to nobody.
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) { localStorage.setItem(TOKEN, given); history.replaceState(null, "", location.pathname); }
const headers = () => (localStorage.getItem(TOKEN) ? { Authorization: `Bearer ${localStorage.getItem(TOKEN)}` } : {});

async function ask(path, more) {
  const answer = await fetch(path, { ...more, headers: { ...headers(), ...(more || {}).headers }, signal: AbortSignal.timeout(15000) });
  return answer;
}

async function press(name, order, quiet) {
  if (!quiet) tell(`${name}: asked for`, "");
  try {
    const answer = await fetch(`api/${name}`, {
      method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(order || {}),
    });
    const content = await answer.json().catch(() => ({}));
    const words = answer.ok ? content.message : content.detail || `status ${answer.status}`;
    if (answer.status === 401) tell(`${name}: ${words}. Press Token.`, "bad");
    else tell(`${name}: ${words}`, answer.ok ? "good" : "bad");
    busyUntil = Date.now() + 5000;
    refresh();
    return answer.ok ? content : null;
  } catch (error) {
    tell(`${name}: no answer from the console`, "bad");
    return null;
  }
}

function tell(words, tone) { $("told").textContent = words; $("told").className = tone; }

function ensure(words) {
  $("asktext").textContent = words;
  $("ask").showModal();
  return new Promise((done) => $("ask").addEventListener("close", () => done($("ask").returnValue === "yes"), { once: true }));
}

async function stop() { $("stopped").textContent = "stopping"; await press("stop", {}, true); }

async function rearm() {
  const first = await press("rearm", {}, true);
  if (!first || !first.confirm) return;
  if (await ensure(first.message)) await press("rearm", { confirm: first.confirm });
  else tell("not re-armed", "");
}

const number = (id) => Number($(id).value) || 0;

const deeds = {
  practise: () => press("practise", { task: $("task").value, reset: $("reset").checked, execute: $("execute").checked,
    iterations: number("iterations"), canary_trials: number("canary_trials"), seed: number("seed") }),
  run: () => press("run", { task: $("task").value, policy: $("policy").value, trials: number("trials"), seed: number("seed") }),
  doreset: () => press("reset", { task: $("task").value, seed: number("seed") }),
  capture: () => press("capture", {}),
  cancel: () => press("cancel", {}),
  answer: () => press("answer", { question: $("asked").textContent }),
};

// What is shown

const tone = { ready: "good", moving: "warning", holding: "warning", stopped: "bad" };

function showState() {
  const arm = state.status.arm, stops = state.status.stops;
  $("mode").textContent = arm ? arm.mode : "the arm is silent";
  $("mode").className = `chip ${arm ? tone[arm.mode] || "" : "bad"}`;
  const stopped = stops.length > 0 || (arm && arm.mode === "stopped");
  $("stopped").textContent = stopped ? `stopped: ${(arm && arm.detail) || stops.join("; ")}` : "";
  $("rearm").hidden = !stopped;
  document.body.dataset.mode = arm ? arm.mode : "silent";
  $("question").hidden = !state.question;
  $("asked").textContent = state.question;
  document.querySelectorAll(".act").forEach((button) => { button.disabled = !state.may_act; });
  $("rearm").disabled = !state.may_act;
  $("token").textContent = state.may_act ? "Token ✓" : "Token";
  if (!state.may_act && !$("told").textContent) tell("Looking only: the buttons need the token. Stop works on the station's own machine.", "");
  $("armline").textContent = arm ? `${arm.detail || arm.mode}; gripper ${percent(arm.gripper)} open; ${arm.commander ? `commanded by ${arm.commander}` : "commanded by nobody"}` : "";
  if (arm) showArm(arm);
  showWork();
  $("nodelist").replaceChildren(state.status.nodes.length ? table(["node", "state", ""], state.status.nodes.map((node) => [node.name,
    [node.state, node.state === "active" ? "good" : "bad"], `${node.detail}${node.restarts ? ` (restarts: ${node.restarts})` : ""}`]))
    : make("p", { class: "none", text: "no supervisor is heard" }));
  $("problems").replaceChildren(...state.status.problems.map((words) => make("li", { text: words })));
  $("said").replaceChildren(...state.said.slice().reverse().map((line) => make("li", { class: line.tone },
    make("time", { text: new Date(1000 * line.at).toLocaleTimeString() }), line.text)));
  $("age").textContent = state.camera.number ? `${state.camera.rate_hz ? `${state.camera.rate_hz.toFixed(1)} frames/s` : ""}` : "";
}

function showArm(arm) {
  trail.push(arm.position);
  trail = trail.slice(-80);
  if (!station) return;
  drawPlane($("top"), 1, 0, arm, "from above (x up, y left)");
  drawPlane($("side"), 0, 2, arm, "from the side (z up, x right)");
  const bars = state.arm.joints.map((name, place) => {
    const load = state.arm.load[place], degrees = state.temperatures[name];
    const inner = make("div", {});
    inner.style.width = `${Math.min(100, 100 * (load || 0))}%`;
    return make("div", { class: `bar${load > 0.8 ? " high" : ""}`, title: "load, as a share of what is allowed" },
      make("span", { text: name }), make("div", {}, inner), make("span", { text: `${percent(load)}${degrees === undefined ? "" : `  ${degrees.toFixed(0)} °C`}` }));
  });
  const others = Object.entries(state.temperatures).filter(([name]) => !state.arm.joints.includes(name));
  $("loads").replaceChildren(...bars, make("p", { class: "none", text: others.map(([name, degrees]) => `${name} ${degrees.toFixed(0)} °C`).join(", ") }));
}

// A projection of the workspace box: across and up are axes of the base frame; y grows to the left, as seen from above.
function drawPlane(drawn, across, up, arm, words) {
  const [low, high] = station.workspace, margin = 0.06, size = 200;
  const span = Math.max(high[across] - low[across], high[up] - low[up]) + 2 * margin;
  const middle = [(low[across] + high[across]) / 2, (low[up] + high[up]) / 2];
  const flip = across === 1 ? -1 : 1;
  const px = (p) => size / 2 + (flip * (p[across] - middle[0]) / span) * size, py = (p) => size / 2 - ((p[up] - middle[1]) / span) * size;
  const corners = [px(low), px(high)].sort((a, b) => a - b);
  drawn.setAttribute("viewBox", `0 0 ${size} ${size + 30}`);
  drawn.replaceChildren(
    make("svg:rect", { class: "frame", x: 0, y: 0, width: size, height: size, rx: 6 }),
    make("svg:rect", { class: "box", x: corners[0], y: py(high), width: corners[1] - corners[0], height: py(low) - py(high) }),
    make("svg:path", { class: "trail", d: `M${trail.map((p) => `${px(p).toFixed(1)},${py(p).toFixed(1)}`).join("L")}` }),
    state.arm.target.length ? make("svg:circle", { class: "target", cx: px(state.arm.target), cy: py(state.arm.target), r: 7 }) : null,
    make("svg:circle", { class: "now", cx: px(arm.position), cy: py(arm.position), r: 4.5 }),
    make("svg:text", { x: 2, y: size + 12, text: words }),
    make("svg:text", { x: 2, y: size + 25, text: `${"xyz"[across]} ${arm.position[across].toFixed(3)} m, ${"xyz"[up]} ${arm.position[up].toFixed(3)} m` }));
}

function showWork() {
  if (!state.work.length) {
    $("doing").replaceChildren(make("p", { class: "none", text: "nothing is under way" }));
    return;
  }
  $("doing").replaceChildren(...state.work.map((work) => {
    const total = work.trials || work.iterations, done = work.trials ? work.trial : work.iteration;
    const facts = [["under way", `${work.kind}${work.phase ? `: ${work.phase}` : ""}`]];
    if (work.iterations) facts.push(["update", `${work.iteration} of ${work.iterations}`]);
    if (work.trials) facts.push(["trial", `${Math.min(work.trial + 1, work.trials)} of ${work.trials}, ${work.successes} succeeded`]);
    if (work.step) facts.push(["step", work.step]);
    if (work.mean_reward !== null) facts.push(["reward", `${percent(work.mean_reward)}, usable groups ${percent(work.usable_groups)}`]);
    if (work.seconds_left) facts.push(["time left", `about ${duration(work.seconds_left)}`]);
    return make("div", {}, make("progress", { max: 1, value: total ? done / total : null, "aria-label": `${work.kind} under way` }),
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })])));
  }));
}

function filmOf(line, run, tag) {
  const film = make(tag, { class: `film ${line.verdict}${line.frames < 2 ? " one" : ""}`, type: tag === "button" ? "button" : null,
    "aria-label": `${line.verdict}, ${line.phase} update ${line.update}`, title: line.reason });
  film.style.setProperty("--n", line.frames);
  film.style.backgroundImage = `url("api/film/${encodeURIComponent(run)}/${encodeURIComponent(line.film)}?${line.number}")`;
  return film;
}

const meters = (line) => Object.entries(line.meters || {}).map(([name, value]) => `${name} ${brief(value)}`).join(", ");

function openFilm(line, run) {
  const big = filmOf(line, run, "div");
  big.id = "bigfilm";
  $("bigfilm").replaceWith(big);
  const facts = [["verdict", line.verdict], ["score", brief(line.score)], ["confidence", brief(line.confidence)], ["why", line.reason],
    ["when", `${line.phase}, update ${line.update}`], ["instruction", line.instruction], ["meters of hallucination", meters(line) || "not read"],
    ["actions changed by the safety envelope", percent(line.changed_share)]];
  $("filmfacts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  $("filmbox").showModal();
}

const shownFilms = new Map();

function showFilms(practice) {
  $("practice").textContent = `${practice.name}; ${practice.phase}${practice.iterations ? `, update ${practice.iteration} of ${practice.iterations}` : ""}`;
  const counts = practice.verdicts;
  $("verdicts").className = "";
  $("verdicts").replaceChildren(`${practice.film_count} films: `,
    ...["success", "failure", "abstained"].map((name) => make("span", { class: `mark-${name}`, text: ` ${name} ${counts[name]} ` })),
    practice.film_count ? " (frame: green success, red failure, dashed abstention; below it the meters of hallucination)" : "");
  const wanted = practice.films.slice().reverse();
  const keys = new Set(wanted.map((line) => `${practice.name}/${line.number}`));
  for (const [key, cell] of shownFilms) if (!keys.has(key)) { cell.remove(); shownFilms.delete(key); }
  for (const line of practice.films) { // the newest is put in front; those that are there stay as they are
    const key = `${practice.name}/${line.number}`;
    if (shownFilms.has(key)) continue;
    const film = filmOf(line, practice.name, "button");
    film.addEventListener("click", () => openFilm(line, practice.name));
    const read = Object.entries(line.meters || {}).map(([name, value]) => `${name[0]} ${brief(value)}`).join(" · ");
    const cell = make("div", { class: "filmcell" }, film, make("span", { class: `mark-${line.verdict}`, text: `${line.phase} ${line.update} ` }), make("span", { text: read, title: meters(line) }));
    shownFilms.set(key, cell);
    $("films").prepend(cell);
  }
}

function showRecords() {
  const { practice, canary, trials, queue } = records;
  if (practice) {
    showFilms(practice);
    $("curve").replaceChildren(practice.curve.length
      ? lineChart([{ label: "mean reward", points: practice.curve.map((point) => [point[0], point[1]]), tone: 1 },
        { label: "usable groups", points: practice.curve.map((point) => [point[0], point[2]]), tone: 0 }], { y: [0, 1], x: "update", label: "reward and usable groups" })
      : make("p", { class: "none", text: "no update yet" }));
    const found = practice.result;
    $("outcome").textContent = found ? found.message || "" : "";
  } else $("curve").replaceChildren(make("p", { class: "none", text: "no practice yet" }));
  if (canary && canary.problem) $("canarychart").replaceChildren(make("p", { text: canary.problem }));
  else if (canary) {
    $("canaryline").textContent = canary.adapter;
    const pairs = make("p", { "aria-label": "pairs, base and adapter" }, "pairs, base | adapter: ", ...canary.pairs.map(([base, adapter]) =>
      make("span", { title: "base | adapter", text: ` ${[base, adapter].map((value) => (value === null ? "?" : value ? "✓" : "✗")).join("|")} ` })));
    $("canarychart").replaceChildren(lineChart([
      { label: "e for better", points: canary.better.map((value, place) => [place, value]), tone: 1 },
      { label: "e for worse", points: canary.worse.map((value, place) => [place, value]), tone: 2 }],
    { log: true, x: "pairs", bounds: [[`decided at ${canary.bound.toFixed(0)}`, canary.bound]], label: "evidence of the canary" }), pairs, make("p", { text: canary.words }));
  }
  if (trials && trials.problem) $("rates").replaceChildren(make("p", { text: trials.problem }));
  else if (trials) {
    $("trialsline").textContent = trials.folder;
    $("rates").replaceChildren(rateChart(trials.rates.map((rate) => ({ label: `${rate.policy}, ${rate.task}`, rate: rate.n ? rate.successes / rate.n : null,
      interval: rate.interval, note: `${rate.successes} of ${rate.n}${rate.interval ? ` (${percent(rate.interval[0])} to ${percent(rate.interval[1])})` : ""}${rate.abstained ? `, ${rate.abstained} not judged` : ""}` }))),
    make("p", { class: "none", text: "Dot: success rate; line: 95 % interval (Wilson)." }));
  }
  if (queue) $("jobs").replaceChildren(queue.problem ? make("p", { text: queue.problem }) : table(["job", "task", "trials", "state"],
    queue.jobs.map((job) => [job.number, job.task, `${job.trials_done} of ${job.trials}`, job.state])),
  queue.paused ? make("p", { text: `paused: ${queue.paused}` }) : null);
}

// When to ask. Nothing is asked while the page is hidden.

const isBusy = () => state && (state.work.length > 0 || Date.now() < busyUntil || (state.status.arm && state.status.arm.mode === "moving"));

async function refresh() {
  try {
    const answer = await ask("api/state");
    state = await answer.json();
    lastHeard = Date.now();
    $("link").hidden = true;
    showState();
  } catch (error) {
    $("link").hidden = false;
    $("link").textContent = `no answer from the console for ${duration((Date.now() - lastHeard) / 1000)}`;
  }
}

async function refreshRecords() {
  const answer = await ask("api/records", { headers: recordsTag ? { "If-None-Match": recordsTag } : {}, cache: "no-store" });
  if (answer.status !== 200) return;
  recordsTag = answer.headers.get("ETag") || "";
  records = await answer.json();
  showRecords();
}

let pictureTag = "", pictureUrl = "";

async function refreshPicture() {
  const answer = await ask(`api/picture/${$("which").value}`, { headers: pictureTag ? { "If-None-Match": pictureTag } : {}, cache: "no-store" });
  if (answer.status !== 200) return;
  pictureTag = answer.headers.get("ETag") || "";
  const next = URL.createObjectURL(await answer.blob());
  $("picture").src = next;
  if (pictureUrl) URL.revokeObjectURL(pictureUrl);
  pictureUrl = next;
  $("nopicture").hidden = true;
}

function every(work, quick, slow) {
  async function round() {
    if (!document.hidden) await work().catch(() => {});
    setTimeout(round, isBusy() ? quick : slow);
  }
  round();
}

function showStation() {
  document.title = `${station.name}: gymnast console`;
  $("station").textContent = station.name;
  $("kind").hidden = !station.simulated;
  const keep = $("policy").value;
  if (!$("task").options.length) $("task").replaceChildren(...station.tasks.map((task) => make("option", { value: task.name, text: `${task.name}: ${task.instruction}` })));
  $("policy").replaceChildren(make("option", { value: "base", text: "base" }), ...station.adapters.map((one) => make("option", { value: one.name, text: `${one.name} (${one.state})`, disabled: one.state === "rolled back" })));
  if (keep) $("policy").value = keep;
  $("refrow").hidden = !station.reference;
  if (station.reference && !$("overlay").src) $("overlay").src = "api/reference";
  showCrop();
}

function showCrop() {
  const box = station && station.crop, camera = $("which").value === "camera";
  $("croprow").hidden = !box;
  $("crop").hidden = !(box && camera && $("showcrop").checked);
  if (!box) return;
  const [top, left, bottom, right] = box;
  Object.assign($("crop").style, { top: `${100 * top}%`, left: `${100 * left}%`, bottom: `${100 * (1 - bottom)}%`, right: `${100 * (1 - right)}%` });
}

async function refreshStation() {
  station = await (await ask("api/station")).json();
  showStation();
  if (state) showState(); // the arm is drawn in its workspace
}

for (const [id, deed] of Object.entries(deeds)) $(id).addEventListener("click", deed);
$("stop").addEventListener("click", stop);
$("rearm").addEventListener("click", rearm);
$("theme").addEventListener("click", () => tell(`theme: ${setTheme(true)}`, ""));
$("showcrop").addEventListener("change", showCrop);
$("which").addEventListener("change", () => { pictureTag = ""; showCrop(); });
$("refmix").addEventListener("input", () => { $("overlay").hidden = $("refmix").value === "0"; $("overlay").style.opacity = $("refmix").value / 100; });
$("orders").addEventListener("submit", (event) => event.preventDefault());
$("token").addEventListener("click", () => $("tokenbox").showModal());
$("tokenbox").addEventListener("close", () => {
  if ($("tokenbox").returnValue === "yes") localStorage.setItem(TOKEN, $("tokentext").value.trim());
  if ($("tokenbox").returnValue === "forget") localStorage.removeItem(TOKEN);
  $("tokentext").value = "";
  tell("", "");
  refresh();
});
// Keys. S stops wherever the focus is, except where text is written.
const keys = { s: stop, c: deeds.capture, p: deeds.practise, r: deeds.run, x: deeds.cancel };
document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("input:not([type=checkbox]):not([type=range]), select, textarea");
  const deed = keys[event.key.toLowerCase()];
  if (!deed || writes || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (deed !== stop && (document.querySelector("dialog[open]") || !state || !state.may_act)) return;
  event.preventDefault();
  deed();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

setTheme(false);
every(refresh, 500, 1000);
every(refreshStation, 10000, 30000);
every(refreshRecords, 1000, 3000);
every(refreshPicture, 200, 1000);
