// Draws each chart with Vega, and moves one cursor through all of them: by mouse, finger or keys. Colours are CSS variables,
// so dark mode and print need no drawing anew. Numbers are written by the rules of charts.py.
const charts = JSON.parse(document.getElementById("data").textContent);
const dashes = [[], [7, 4], [2, 3], [10, 3, 2, 3], [12, 6], [4, 4], [1, 5], [6, 2, 1, 2, 1, 2]];
const pace = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800];
const drawn = new Map();
const widths = new Map();
const HEIGHT = 220;
const NEAR = 8; // pixels from which a decision is pointed at

function shown(unit, value) {
  if (value === null || value === undefined) return "-";
  const short = (number) => String(Number(number.toPrecision(3)));
  const grouped = (digits) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  if (unit === "time") {
    if (value < 0.0995) return `${short(value * 1000)} ms`;
    return value < 100 ? `${short(value)} s` : `${value.toFixed(0)} s`;
  }
  if (unit === "share") return value > 0 && value < 0.1 ? `${(value * 100).toFixed(1)}%` : `${(value * 100).toFixed(0)}%`;
  if (unit === "money") return grouped(2);
  if (value > 0 && value < 0.001) return "<0.001";
  return value >= 1000 ? grouped(0) : short(value);
}

function clock(seconds) {
  const whole = Math.floor(seconds + 0.5);
  for (const [large, small, size, part] of [["d", "h", 86400, 3600], ["h", "min", 3600, 60], ["min", "s", 60, 1]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / part);
    return rest ? `${Math.floor(whole / size)} ${large} ${rest} ${small}` : `${Math.floor(whole / size)} ${large}`;
  }
  return whole === seconds || whole >= 10 ? `${whole} s` : `${Number(seconds.toPrecision(2))} s`;
}

// Powers of ten, with 2 and 5 between them where those are too few.
function decades(low, high) {
  const found = (digits) => {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const digit of digits) all.push(digit * 10 ** power);
    return all.filter((value) => value >= low && value <= high);
  };
  return found([1]).length < 3 ? found([1, 2, 5]) : found([1]);
}

function specification(chart, width) {
  const rows = chart.lines.flatMap((line, number) =>
    line.values.map((value, index) => ({
      line: number,
      time: index * line.step,
      value: value === null || (chart.log && value <= 0) ? null : value,
    })),
  );
  const values = [...rows.map((row) => row.value), ...chart.limits.map((one) => one.value)].filter((one) => one !== null);
  const high = values.reduce((one, two) => Math.max(one, two), 0);
  const low = values.reduce((one, two) => Math.min(one, two), high);
  const log = chart.log && low > 0;
  const domain = log ? [low / 1.2, high * 1.3] : [0, high || 1];
  const last = chart.end;
  const step = pace.find((one) => last / one <= width / 85) || last;
  const ticks = [];
  for (let time = 0; time <= last; time += step) ticks.push(time);
  const ink = { labelColor: "var(--dim)", tickColor: "var(--edge)", gridColor: "var(--edge)", domainColor: "var(--dim)", labelFontSize: 12 };
  const label = (text) => ({ labels: { update: { text: { signal: text } } } });
  return {
    width, height: HEIGHT, padding: { left: 0, right: 6, top: 8, bottom: 0 }, autosize: { type: "fit", contains: "padding" },
    data: [
      { name: "rows", values: rows },
      { name: "limits", values: chart.limits },
      { name: "marks", values: chart.marks.filter((one) => one.second <= last) },
    ],
    scales: [
      { name: "x", domain: [0, last], range: "width" },
      { name: "y", type: log ? "log" : "linear", domain, range: "height", nice: !log, zero: !log },
      { name: "color", type: "ordinal", domain: dashes.map((_, number) => number), range: dashes.map((_, number) => `var(--line-${number})`) },
      { name: "dash", type: "ordinal", domain: dashes.map((_, number) => number), range: dashes },
    ],
    axes: [
      { scale: "y", orient: "left", grid: true, domain: false, ticks: false, minExtent: 48, maxExtent: 48, tickCount: 4, ...ink,
        ...(log ? { values: decades(...domain) } : {}), encode: label(`shown('${chart.unit}', datum.value)`) },
      { scale: "x", orient: "bottom", values: ticks, labelOverlap: true, labelFlush: true, ...ink, encode: label("clock(datum.value)") },
    ],
    marks: [
      { type: "group", from: { facet: { name: "part", data: "rows", groupby: "line" } },
        marks: [{ type: "line", from: { data: "part" }, encode: { enter: {
          x: { scale: "x", field: "time" }, y: { scale: "y", field: "value" },
          defined: { signal: "datum.value !== null" },
          interpolate: { value: chart.stepped ? "step-after" : "linear" },
          stroke: { scale: "color", field: "line" }, strokeDash: { scale: "dash", field: "line" },
          strokeWidth: { value: 1.8 }, strokeJoin: { value: "round" },
        } } }] },
      { type: "rule", from: { data: "limits" }, encode: { enter: {
        x: { value: 0 }, x2: { signal: "width" }, y: { scale: "y", field: "value" },
        stroke: { value: "var(--bad)" }, strokeDash: { value: [5, 3] }, strokeWidth: { value: 1.5 },
      } } },
      { type: "symbol", from: { data: "marks" }, encode: { enter: {
        x: { scale: "x", field: "second" }, y: { signal: "datum.value === null ? height - 7 : scale('y', datum.value)" },
        shape: { signal: "datum.up ? 'triangle-up' : 'triangle-down'" }, size: { value: 110 },
        fill: { value: "var(--ink)" }, stroke: { value: "var(--paper)" }, strokeWidth: { value: 1.5 },
      } } },
    ],
  };
}

async function draw(plot) {
  const width = plot.clientWidth;
  if (!width || widths.get(plot) === width) return;
  widths.set(plot, width);
  const chart = charts[plot.dataset.chart];
  const box = document.createElement("div");
  const options = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, hover: false, tooltip: false, ast: true, expressionFunctions: { shown, clock } };
  const { view } = await vegaEmbed(box, specification(chart, width), options);
  if (widths.get(plot) !== width) return view.finalize();
  drawn.get(plot)?.view.finalize();
  box.querySelector("svg").setAttribute("aria-hidden", "true");
  plot.replaceChildren(box);
  const left = view.padding().left + view.origin()[0];
  drawn.set(plot, { chart, view, left, place: view.scale("x"), figure: plot.closest("figure") });
}

// What is under `time` in one chart, or what is highest if time is null.
function tell(plot, time, own) {
  const one = drawn.get(plot);
  const { chart, figure } = one;
  plot.querySelectorAll(".cursor, .reason").forEach((old) => old.remove());
  const words = figure.querySelectorAll(".legend b");
  words.forEach((word) => { word.dataset.peak ??= word.textContent; });
  figure.querySelector(".when").textContent = time === null ? "highest" : clock(time);
  const texts = chart.lines.map((line, number) =>
    time === null ? words[number].dataset.peak : shown(chart.unit, line.values[Math.floor(time / line.step + 1e-9)]));
  texts.forEach((text, number) => { words[number].textContent = text; });
  if (time === null) return;
  const cursor = document.createElement("div");
  const x = one.left + one.place(Math.min(time, chart.end));
  cursor.className = "cursor";
  cursor.style.left = `${x}px`;
  plot.append(cursor);
  const reach = Math.max(chart.lines[0].step, NEAR * (one.place.invert(1) - one.place.invert(0)));
  const near = chart.marks.filter((mark) => Math.abs(mark.second - time) <= reach).map((mark) => `${clock(mark.second)}: ${mark.text}`);
  const reason = near.slice(0, 3).join(" · ") + (near.length > 3 ? ` · and ${near.length - 3} more` : "");
  if (reason) {
    const box = document.createElement("div");
    box.className = "reason";
    box.textContent = reason;
    plot.append(box);
    const room = plot.clientWidth - box.offsetWidth;
    box.style.left = `${Math.max(0, Math.min(room, x > plot.clientWidth / 2 ? x - box.offsetWidth - 12 : x + 12))}px`;
  }
  if (!own) return;
  plot.setAttribute("aria-valuenow", String(Math.round(time)));
  const spoken = chart.lines.map((line, number) => `${line.name} ${texts[number]}`).join(", ");
  plot.setAttribute("aria-valuetext", [clock(time), spoken, reason].filter(Boolean).join("; "));
}

let now = null;
function point(time, source) {
  if (time === now) return;
  now = time;
  for (const plot of drawn.keys()) if (plot.clientWidth) tell(plot, time, plot === source);
}

// When the last stretch of a chart begins.
function latest({ lines }) {
  return Math.max(...lines.map((line) => line.step * (line.values.length - 1)), 0);
}

function key(event, plot) {
  if (!drawn.has(plot)) return;
  const { chart } = drawn.get(plot);
  const step = chart.lines[0].step * (event.shiftKey ? 10 : 1);
  const last = latest(chart);
  const marks = chart.marks.map((mark) => mark.second);
  const at = now ?? 0;
  const moves = {
    ArrowLeft: () => at - step, ArrowDown: () => at - step, ArrowRight: () => at + step, ArrowUp: () => at + step,
    Home: () => 0, End: () => last,
    PageUp: () => marks.findLast((mark) => mark < at) ?? (marks.length ? at : at - last / 10),
    PageDown: () => marks.find((mark) => mark > at) ?? (marks.length ? at : at + last / 10),
    Escape: () => null,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const time = moves[event.key]();
  point(time === null ? null : Math.min(last, Math.max(0, time)), plot);
}

function follow(event, plot) {
  const one = drawn.get(plot);
  if (!one) return;
  const time = one.place.invert(event.clientX - plot.getBoundingClientRect().left - one.left);
  const step = one.chart.lines[0].step;
  const reach = NEAR * (one.place.invert(1) - one.place.invert(0));
  const marks = one.chart.marks.map((mark) => mark.second).filter((second) => Math.abs(second - time) <= reach);
  marks.sort((a, b) => Math.abs(a - time) - Math.abs(b - time));
  point(marks[0] ?? Math.min(latest(one.chart), Math.max(0, Math.floor(time / step) * step)), plot);
}

const sizes = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
for (const plot of document.querySelectorAll(".plot")) {
  const role = { role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": Math.round(charts[plot.dataset.chart].end), "aria-valuenow": 0, "aria-valuetext": "not moved" };
  for (const [name, value] of Object.entries(role)) plot.setAttribute(name, value);
  plot.addEventListener("keydown", (event) => key(event, plot));
  plot.addEventListener("focus", () => { if (now === null && plot.matches(":focus-visible")) point(0, plot); });
  plot.addEventListener("blur", () => point(null, plot));
  for (const name of ["pointerdown", "pointermove"]) plot.addEventListener(name, (event) => follow(event, plot));
  plot.addEventListener("pointerleave", () => { if (document.activeElement !== plot) point(null, plot); });
  sizes.observe(plot);
}

const choice = document.getElementById("variant");
function show() {
  for (const section of document.querySelectorAll(".variant")) section.hidden = section.id !== choice.value;
}
if (choice) {
  choice.addEventListener("change", show);
  show();
}
