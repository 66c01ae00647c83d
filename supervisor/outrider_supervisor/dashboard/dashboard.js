"use strict";

// The page behind the admin endpoint. Everything it shows comes from /api/history, once, and /api/events, for as long
// as it is open. Texts of the service only ever become text nodes.

const KEPT_SECONDS = 600;
const MOST_EVENTS = 200;
const LONGEST_PAUSE = 10000;
const SILENCE = 15000;
const TOKEN = "outrider-token";
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const last = { status: null, eventId: "" };
const pool = [];
const workers = new Map(); // pid -> points of its sparklines
const rows = new Map(); // pid -> its <tr> and cells
const groups = new Map(); // generation -> its <tbody>

// -- what numbers look like

const known = (value) => value !== null && value !== undefined;
const orDash = (format) => (value) => (known(value) ? format(value) : "–");
const number = orDash((value) =>
  value.toLocaleString("en", { maximumFractionDigits: value < 10 && value % 1 ? 1 : 0 }).replaceAll(",", "\u202f"));
const milliseconds = orDash((value) => (value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`));
const percent = orDash((share) => `${Math.round(100 * share)}\u202f%`);
const megabytes = orDash((bytes) => `${number(bytes / 1048576)} MiB`);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en", { hourCycle: "h23" });

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function duration(seconds) {
  if (!known(seconds)) return "–";
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].map(([size, unit], index, all) => {
    const rest = index ? seconds % all[index - 1][0] : seconds;
    return [Math.floor(rest / size), unit];
  });
  const first = parts.findIndex(([count]) => count);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

// -- elements

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// The highest of each few values: a peak must not get lost between pixels.
function thinned(values, most) {
  const size = Math.ceil(values.length / most);
  if (size < 2) return values;
  return Array.from({ length: Math.ceil(values.length / size) }, (_, index) =>
    Math.max(...values.slice(index * size, (index + 1) * size)));
}

function sparkline(values, label, width) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 30");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  const numbers = thinned(values.map((value) => value ?? 0), width);
  if (numbers.length < 2) return svg;
  const most = Math.max(...numbers, Number.MIN_VALUE);
  const points = numbers.map((value, index) =>
    `${((100 * index) / (numbers.length - 1)).toFixed(1)} ${(29 - (27 * value) / most).toFixed(1)}`);
  for (const [kind, data] of [["area", `M0 30L${points.join("L")}L100 30Z`], ["", `M${points.join("L")}`]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", kind);
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}

function show(target, text, kind) {
  if (target.textContent !== text) target.textContent = text;
  if (kind !== undefined) target.className = kind;
}

// -- the last ten minutes

function keep(points, point) {
  points.push(point);
  while (points.length && points[0].at < point.at - KEPT_SECONDS) points.shift();
}

function remember(status) {
  const at = Date.now() / 1000;
  const all = status.generations.flatMap((generation) => generation.workers);
  keep(pool, {
    at,
    ...status.rates,
    lag_ms: Math.max(0, ...all.map((worker) => worker.loop_lag_ms ?? 0)),
    memory_bytes: all.reduce((sum, worker) => sum + (worker.memory_bytes ?? 0), 0),
    workers: status.capacity,
  });
  const present = new Set(all.map((worker) => worker.pid));
  for (const pid of workers.keys()) if (!present.has(pid)) workers.delete(pid);
  for (const worker of all) {
    if (!workers.has(worker.pid)) workers.set(worker.pid, []);
    keep(workers.get(worker.pid), { at, ...worker });
  }
}

function take(history) {
  pool.splice(0, pool.length, ...history.pool);
  workers.clear();
  for (const [pid, points] of Object.entries(history.workers)) {
    workers.set(Number(pid), points.map(([at, requests_per_second, loop_lag_ms, busy, memory_bytes]) =>
      ({ at, requests_per_second, loop_lag_ms, busy, memory_bytes })));
  }
}

// -- what is shown

const STATES = { serving: "good", ready: "good", current: "good", degraded: "bad", stuck: "bad", stopping: "warn" };
const badge = (state) => `badge ${STATES[state] ?? "busy"}`;

function tile(label, value, unit, key) {
  const points = pool.map((point) => point[key]);
  return element("div", { class: "tile" },
    element("div", { class: "label" }, label),
    element("div", { class: "value" }, value, " ", element("span", { class: "unit" }, unit)),
    sparkline(points, `${label} over the last ten minutes`, 150));
}

function showTiles(status) {
  const rates = status.rates ?? {};
  const now = pool.at(-1);
  const scaler = status.autoscaler;
  const range = scaler ? `of ${status.target}, ${scaler.min} to ${scaler.max}` : `of ${status.target} workers`;
  byId("tiles").replaceChildren(
    tile("Requests", number(rates.requests_per_second), "a second", "requests_per_second"),
    tile("Errors (5xx)", number(rates.errors_per_second), "a second", "errors_per_second"),
    tile("Latency, p99", milliseconds(rates.p99_ms), `p50 ${number(rates.p50_ms)}`, "p99_ms"),
    tile("In flight", number(rates.in_flight), "requests", "in_flight"),
    tile("Loop lag, worst", milliseconds(now.lag_ms), "", "lag_ms"),
    tile("Memory", megabytes(now.memory_bytes), "", "memory_bytes"),
    tile("Pool", number(status.capacity), range, "workers"),
  );
}

const COLUMNS = [
  ["Worker", (worker) => worker.pid],
  ["State", (worker) => worker.state],
  ["Age", (worker) => duration(worker.age)],
  ["Requests/s", (worker) => number(worker.requests_per_second), "requests_per_second"],
  ["p99", (worker) => milliseconds(worker.p99_ms)],
  ["In flight", (worker) => number(worker.in_flight)],
  ["Connections", (worker) =>
    (worker.websockets ? `${number(worker.connections)} (${number(worker.websockets)} WS)` : number(worker.connections))],
  ["Loop lag", (worker) => milliseconds(worker.loop_lag_ms), "loop_lag_ms"],
  ["Loop busy", (worker) => percent(worker.busy), "busy"],
  ["CPU", (worker) => (known(worker.cpu_percent) ? percent(worker.cpu_percent / 100) : "–")],
  ["Memory", (worker) => megabytes(worker.memory_bytes), "memory_bytes"],
];

function makeRow(pid) {
  const cells = COLUMNS.map(([label]) => element("td", { "data-label": label }));
  const button = (command) =>
    element("button", { type: "button", "data-command": command, "data-pid": pid }, command === "dump" ? "Dump" : "Recycle");
  const row = element("tr", {}, ...cells, element("td", { class: "actions" }, button("recycle"), " ", button("dump")));
  rows.set(pid, { row, cells });
  return rows.get(pid);
}

function showWorker(worker) {
  const { row, cells } = rows.get(worker.pid) ?? makeRow(worker.pid);
  COLUMNS.forEach(([label, format, key], index) => {
    const points = key ? (workers.get(worker.pid) ?? []).map((point) => point[key]) : [];
    const line = key ? [sparkline(points, `${label} of worker ${worker.pid}`, 60)] : [];
    cells[index].replaceChildren(String(format(worker)), ...line);
  });
  cells[1].className = STATES[worker.state] ?? "busy";
  return row;
}

function showGeneration(generation) {
  if (!groups.has(generation.number)) {
    const heading = element("th", { colspan: COLUMNS.length + 1, scope: "rowgroup" });
    const group = element("tbody", {}, element("tr", { class: "generation" }, heading));
    groups.set(generation.number, { group, heading });
    byId("workers").append(group);
  }
  const { group, heading } = groups.get(generation.number);
  const master = generation.master_pid ? `master ${generation.master_pid}` : "its master is gone";
  const backoff = generation.backoff
    ? [element("span", { class: "bad" }, ` · ${generation.backoff.failures} failed to start, the next at ${clock(generation.backoff.until)}`)]
    : [];
  heading.replaceChildren(
    `Generation ${generation.number} `, element("span", { class: badge(generation.state) }, generation.state),
    element("span", { class: "quiet" }, ` since ${clock(generation.since)} · ${master} · ${counted(generation.workers.length, "worker")}`), ...backoff);
  const shown = generation.workers.map(showWorker);
  if (shown.some((row, index) => group.children[index + 1] !== row) || group.children.length !== shown.length + 1) {
    group.replaceChildren(group.firstElementChild, ...shown);
  }
}

function showWorkers(status) {
  const numbers = new Set(status.generations.map((generation) => generation.number));
  for (const [number, { group }] of groups) {
    if (!numbers.has(number)) {
      group.remove();
      groups.delete(number);
    }
  }
  status.generations.forEach(showGeneration);
  const present = new Set(status.generations.flatMap((generation) => generation.workers.map((worker) => worker.pid)));
  for (const pid of rows.keys()) if (!present.has(pid)) rows.delete(pid);
}

function showStalls(stalls) {
  byId("stalls-section").hidden = !stalls?.length;
  byId("stalls").tBodies[0].replaceChildren(...(stalls ?? []).map((stall) => element("tr", {},
    element("td", { title: stall.stack ?? "" }, element("code", {}, stall.frame)),
    element("td", { "data-label": "Times" }, number(stall.count)),
    element("td", { "data-label": "Longest" }, duration(stall.longest ?? stall.seconds)),
    element("td", { "data-label": "Total" }, duration(stall.seconds)),
    element("td", { "data-label": "Last" }, clock(stall.last)),
    element("td", { "data-label": "Worker" }, String(stall.worker)))));
}

function showEvent(event) {
  const kind = { warning: "warn", error: "bad" }[event.level] ?? "";
  const list = byId("events");
  list.prepend(element("li", {}, element("time", {}, clock(event.at)), element("span", { class: kind }, event.text)));
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

function showStatus(status) {
  last.status = status;
  remember(status);
  document.title = `${status.name}: ${status.state}`;
  show(byId("name"), status.name);
  show(byId("state"), status.state, badge(status.state));
  show(byId("about"), `Outrider ${status.version} · process ${status.pid} · up ${duration(Date.now() / 1000 - status.since)} · ${status.addresses.join(", ")}`);
  const operation = status.operation;
  byId("operation").hidden = !operation;
  if (operation) show(byId("operation"), `${operation.name}: ${operation.progress || "begun"}`);
  showTiles(status);
  showWorkers(status);
  showStalls(status.stalls);
}

// -- the server

const authorization = () => {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { Authorization: `Bearer ${token}` } : {};
};

class Refused extends Error {}

async function request(path, options = {}) {
  const response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers }, cache: "no-store" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new (response.status === 401 ? Refused : Error)(problem.error ?? `${path}: ${response.status} ${response.statusText}`);
}

async function* linesOf(response, onSilence) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const timer = onSilence && setTimeout(() => reader.cancel(), onSilence);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Not EventSource, which cannot send a token.
async function follow() {
  const headers = last.eventId ? { "Last-Event-ID": last.eventId } : {};
  const response = await request("api/events", { headers });
  show(byId("live"), "live", "good");
  byId("problem").hidden = true;
  let event = {};
  for await (const line of linesOf(response, SILENCE)) {
    if (line === "") {
      if (event.event === "status") showStatus(JSON.parse(event.data));
      if (event.event === "log") showEvent(JSON.parse(event.data));
      if (event.id) last.eventId = event.id;
      event = {};
    } else if (!line.startsWith(":")) {
      const colon = line.indexOf(":");
      event[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
    }
  }
}

async function stayConnected() {
  for (let pause = 500; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
    try {
      take(await (await request("api/history")).json());
      await follow();
      pause = 500;
    } catch (error) {
      if (error instanceof Refused) await askForToken();
      show(byId("problem"), `No connection: ${error.message}`);
      byId("problem").hidden = false;
    }
    show(byId("live"), "disconnected", "bad");
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// -- commands

function ask(dialog) {
  return new Promise((resolve) => {
    dialog.querySelector("form").onsubmit = (event) => resolve(event.submitter.value === "ok");
    dialog.oncancel = () => resolve(false);
    dialog.showModal();
  });
}

async function askForToken() {
  byId("token").value = "";
  if (await ask(byId("token-dialog"))) sessionStorage.setItem(TOKEN, byId("token").value);
  showLock();
}

function showLock() {
  const unlocked = sessionStorage.getItem(TOKEN) !== null;
  document.body.classList.toggle("unlocked", unlocked);
  byId("controls").hidden = !unlocked;
  byId("unlock").hidden = unlocked;
}

function commandOf({ command, pid, step }) {
  if (command === "scale") {
    const wanted = last.status.target + Number(step);
    return [`Serve with ${counted(wanted, "worker")}?`, { workers: wanted }];
  }
  if (command === "recycle" && !pid) return ["Replace every worker, one after the other?", { all: true }];
  if (command === "recycle") return [`Replace worker ${pid}?`, { pid: Number(pid) }];
  if (command === "dump") return [`Have worker ${pid} write what it is doing?`, { pid: Number(pid) }];
  return ["Reload the code and the configuration?", {}];
}

async function carryOut(dataset) {
  const [question, body] = commandOf(dataset);
  show(byId("question"), question);
  if (!(await ask(byId("confirm-dialog")))) return;
  let outcome = { message: "The connection was lost; the events tell how it ends.", details: "" };
  try {
    const headers = { "Content-Type": "application/json" };
    const response = await request(`api/${dataset.command}`, { method: "POST", headers, body: JSON.stringify(body) });
    for await (const line of linesOf(response)) {
      const told = line ? JSON.parse(line) : {};
      if ("ok" in told) outcome = told;
    }
  } catch (error) {
    outcome = { message: error.message, details: "" };
    if (error instanceof Refused) sessionStorage.removeItem(TOKEN);
    showLock();
  }
  show(byId("outcome"), outcome.message);
  show(byId("details"), outcome.details);
  byId("outcome-dialog").showModal();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-command]");
  if (button) carryOut(button.dataset);
});
byId("unlock").addEventListener("click", askForToken);
byId("lock").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  showLock();
});

showLock();
stayConnected();
