"use strict";
// The page's form: from fields to a question, from the service's answer to views, and all of it in the link.
(() => {
  const { element } = rl2mlPlots;
  const $ = (id) => document.getElementById(id);
  const FIELDS = ["metric", "rollouts", "current", "judged_on", "kappa", "baseline", "criterion", "gamma_min", "gamma_max"];
  const DEFAULTS = Object.fromEntries(FIELDS.map((id) => [id, $(id).value]));
  const KEY_WANTED = "The service asks for an API key: enter it at the end of the form.";
  const WAIT = 120, DRAWS = 200;
  // Problems name a place in the question; these are the fields that people see.
  const PLACES = [["#/pilot", "pilot"], ["#/metric", "metric"], ["#/budget", "rollouts"], ["#/current", "current"], ["#/score_model", "kappa"], ["#/search/gamma", "gamma"], ["#/search/criterion", "criterion"], ["#/estimator", "baseline"]];

  let cells = null, trainers = [], shown = null, timer = 0, asking = null, worker = null, mapOf = "", map = [];

  class Refused extends Error {
    constructor(problem, status, retry) { super(problem.detail || problem.title || `status ${status}`); Object.assign(this, { problem, status, retry }); }
  }

  async function ask(path, body, signal) {
    const headers = { Accept: "application/json" };
    if (body) headers["Content-Type"] = "application/json";
    if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
    const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body ? JSON.stringify(body) : undefined, signal });
    const text = await response.text();
    let content = {};
    try { content = JSON.parse(text); } catch { /* a proxy's page */ }
    if (!response.ok) throw new Refused(content, response.status, Number(response.headers.get("Retry-After") || 0));
    return content;
  }

  const sleep = (seconds, signal) => new Promise((done, stop) => {
    const waiting = setTimeout(done, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(waiting); stop(new DOMException("", "AbortError")); });
  });

  // A service that is busy says when to come back.
  async function patiently(path, body, signal) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await ask(path, body, signal);
      } catch (error) {
        if (!(error instanceof Refused) || ![429, 503].includes(error.status) || attempt >= 4) throw error;
        const seconds = Math.min(Math.max(error.retry, 1), 10);
        say(`The service is busy; asking again in ${seconds} s.`);
        await sleep(seconds, signal);
      }
    }
  }

  function say(text, wrong = false) {
    $("status").textContent = text;
    $("status").classList.toggle("wrong", wrong);
  }

  function complain(field, text) {
    const output = $(`${field}-said`);
    if (!output) return false;
    output.textContent = text;
    output.classList.add("wrong");
    for (const input of $(`field-${field}`).querySelectorAll("input, select")) input.setAttribute("aria-invalid", "true");
    if (["kappa", "baseline", "criterion", "gamma", "judged_on"].includes(field)) $("more").open = true;
    return true;
  }

  function clearComplaints() {
    for (const output of document.querySelectorAll("output.said.wrong")) if (output.id !== "pilot-said") { output.textContent = ""; output.classList.remove("wrong"); }
    for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  // ---- the question ----

  function question(draws) {
    const number = (id) => Number($(id).value), kappa = $("kappa").value;
    const search = { gamma_min: number("gamma_min"), gamma_max: number("gamma_max"), criterion: $("criterion").value };
    if (search.criterion === "lookahead") search.judged_on = $("judged_on").value;
    return {
      pilot: { cells: cells.map(([num_rollouts, num_successes, num_prompts]) => ({ num_rollouts, num_successes, num_prompts })) },
      metric: $("metric").value.trim(),
      budget: { num_rollouts: number("rollouts") },
      current: $("current").value,
      search,
      estimator: { baseline: $("baseline").value },
      score_model: kappa === "" ? null : { kappa: Number(kappa) },
      uncertainty: { bootstrap: draws },
    };
  }

  function later() {
    clearTimeout(timer);
    remember();
    if (cells) timer = setTimeout(answer, WAIT);
  }

  async function answer() {
    if (asking) asking.abort();
    const mine = (asking = new AbortController());
    clearComplaints();
    $("answer").classList.add("busy");
    say("Solving …");
    try {
      const quick = await patiently("v1/recommendations", question(0), mine.signal);
      await show(quick, mine.signal);
      if (quick.gamma === null) { say(""); return; }
      say("The answer is below; working out how sure it is …");
      const sure = await patiently("v1/recommendations", question(DRAWS), mine.signal);
      await show(sure, mine.signal);
      say(`Answered: γ = ${rl2mlPlots.number(sure.gamma)}.`);
    } catch (error) {
      if (error.name !== "AbortError") failed(error);
    } finally {
      if (asking === mine) $("answer").classList.remove("busy");
    }
  }

  function failed(error) {
    if (error instanceof Refused) {
      const errors = error.problem.errors || [];
      let placed = false;
      for (const { pointer, detail } of errors) {
        const place = PLACES.find(([start]) => pointer.startsWith(start));
        placed = (place && complain(place[1], detail)) || placed;
      }
      if (error.status === 401) say(KEY_WANTED, true);
      else say(placed ? "Something in the question needs a change: see the marked field." : `The service refused: ${error.message}`, true);
      return;
    }
    say("The service does not answer. What you entered is kept; ", true);
    $("status").append(element("button", { type: "button", onclick: answer }, "try again"));
  }

  // ---- the answer ----

  async function analyses(found, signal) {
    const n = Number($("rollouts").value), { pilot, score_model: scores } = question(0);
    const of = (estimator) => ask("v1/estimators/analyses", { estimator, num_rollouts: n, pilot, score_model: scores }, signal).catch((error) => { if (error.name === "AbortError") throw error; return null; });
    const baseline = $("baseline").value, current = $("current").value;
    const [choice, rl, ml] = await Promise.all([of({ gamma: found.gamma, baseline }), of({ gamma: 0, baseline }), of({ gamma: 1, baseline })]);
    const about = JSON.stringify([n, cells, scores]);
    if (about !== mapOf) {
      const made = [];
      for (const trainer of trainers.filter((one) => one.least_rollouts <= n)) made.push({ name: trainer.name, label: trainer.label, analysis: await of(trainer.name) });
      [mapOf, map] = [about, made.filter((one) => one.analysis)];
    }
    const own = (analysis, more) => (analysis ? [{ ...analysis, ...more }] : []);
    return [
      ...own(choice, { label: `γ = ${rl2mlPlots.number(found.gamma)}`, color: "main", compared: true, is_choice: true }),
      ...own(rl, { label: "RL (γ = 0)", color: "rl", compared: true, hidden: true }),
      ...own(ml, { label: "max. likelihood (γ = 1)", color: "ml", compared: true, hidden: true }),
      ...map.map((one) => ({ ...one.analysis, label: one.label, color: "now", is_current: one.name === current, compared: one.name === current })),
    ];
  }

  async function show(found, signal) {
    const data = { recommendation: found, cells, trainer: label(), analyses: shown && shown.recommendation.gamma === found.gamma ? shown.analyses : [] };
    const draw = () => { shown = data; rl2mlViews.render($("answer"), data); $("answer").classList.remove("busy"); };
    $("save-objective").disabled = $("save-report").disabled = found.gamma === null;
    if (found.gamma === null || data.analyses.length === 0) { data.pending = true; draw(); }
    if (found.gamma !== null) {
      data.analyses = await analyses(found, signal);
      data.pending = false;
      draw();
    }
  }

  const label = () => $("current").selectedOptions[0]?.textContent || $("current").value;

  // ---- the pilot ----

  function count(source, name) {
    if (worker) worker.terminate();
    worker = new Worker("web/count.js");
    const said = $("pilot-said"), bar = $("counting");
    said.classList.remove("wrong");
    said.textContent = `Counting ${name} …`;
    bar.hidden = false;
    bar.value = 0;
    worker.onmessage = ({ data }) => {
      if (data.progress !== undefined) { bar.value = data.progress; return; }
      bar.hidden = true;
      worker.terminate();
      worker = null;
      if (data.error) {
        said.textContent = `${name}, ${data.error}`;
        said.classList.add("wrong");
        return;
      }
      take(data.cells, name);
    };
    worker.postMessage({ ...source, name });
  }

  function take(given, name) {
    cells = given;
    const prompts = cells.reduce((sum, [, , count]) => sum + count, 0);
    const rollouts = cells.reduce((sum, [n, , count]) => sum + n * count, 0);
    const successes = cells.reduce((sum, [, k, count]) => sum + k * count, 0);
    $("pilot-said").classList.remove("wrong");
    $("pilot-said").textContent = `${name}: ${prompts.toLocaleString("en")} prompts, ${rollouts.toLocaleString("en")} rollouts, ${((100 * successes) / rollouts).toFixed(1)} % successes.`;
    later();
  }

  // ---- the link: it has everything, in the fragment, which browsers do not send ----

  function remember() {
    if (!cells) return;
    const changed = Object.fromEntries(FIELDS.filter((id) => $(id).value !== DEFAULTS[id]).map((id) => [id, $(id).value]));
    const bytes = new TextEncoder().encode(JSON.stringify({ cells, ...changed }));
    const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
    history.replaceState(null, "", `#${text}`);
  }

  function recall() {
    const text = location.hash.slice(1);
    if (text.length < 8) return;
    try {
      const bytes = Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
      const { cells: kept, ...fields } = JSON.parse(new TextDecoder().decode(bytes));
      if (!Array.isArray(kept) || !kept.every((cell) => Array.isArray(cell) && cell.length === 3 && cell.every(Number.isFinite))) throw new Error("cells");
      for (const id of FIELDS) $(id).value = typeof fields[id] === "string" ? fields[id] : DEFAULTS[id];
      take(kept, "From the link");
    } catch {
      say("The link is damaged: it holds no question.", true);
    }
  }

  function save(name, text, type) {
    const address = URL.createObjectURL(new Blob([text], { type }));
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // The same views in one file: scripts and styles are inlined, and their policy allows just them.
  async function report() {
    const parts = await Promise.all(["uPlot.min.css", "style.css", "uPlot.iife.min.js", "plots.js", "views.js"].map(async (name) => (await fetch(`web/${name}`)).text()));
    const page = await (await fetch("web/report.html")).text();
    const data = JSON.stringify(shown).replace(/</g, "\\u003c");
    const values = { styles: parts.slice(0, 2).join("\n"), scripts: parts.slice(2).join("\n"), data, title: shown.recommendation.summary.replace(/[&<>]/g, "") };
    return page.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
  }

  // ---- runs ----

  function tell(error) {
    const refused = error.status === 401 ? KEY_WANTED : `The service refused: ${error.message}`;
    $("runs-list").replaceChildren(element("p", { class: "said wrong" }, error instanceof Refused ? refused : "The service does not answer."));
  }

  async function runs() {
    const list = $("runs-list");
    try {
      const { items } = await ask("v1/runs?limit=50");
      if (!items.length) { list.replaceChildren(element("p", {}, "There are none yet: POST /v1/runs begins one.")); return; }
      list.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ["run", "metric", "windows", ""].map((name) => element("th", { scope: "col" }, name)))),
        element("tbody", {}, items.map((run) => element("tr", {}, element("th", { scope: "row" }, run.id), element("td", {}, run.settings.metric), element("td", {}, String(run.index)),
          element("td", {}, element("button", { type: "button", onclick: () => history_of(run).catch(tell) }, "γ over windows")))))), element("div", { id: "run" }));
    } catch (error) {
      tell(error);
    }
  }

  async function history_of(run) {
    const found = [];
    for (let cursor = ""; cursor !== null; ) {
      const page = await ask(`v1/runs/${run.id}/windows?limit=100${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
      found.push(...page.items.filter((item) => !item.superseded));
      cursor = page.next_cursor;
    }
    if (!found.length) { $("run").replaceChildren(element("p", {}, "No window was put yet.")); return; }
    const index = found.map((item) => item.decision.index), gamma = found.map((item) => item.decision.gamma);
    const { view, table, lines, number, color } = rl2mlPlots;
    $("run").replaceChildren(view(`γ of ${run.id}`, "The γ that each window of training used; it moves where staying would lose too much.",
      table(["window", "γ", "why"], found.map((item) => [item.decision.index, number(item.decision.gamma), item.decision.reason])),
      (space, width) => lines(space, width, { x: { label: "window" }, y: { label: "γ", range: [0, Math.max(...gamma) * 1.15 + 0.1] }, legend: false,
        series: [{ label: "γ", stroke: color("main"), width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: true, size: 4 } }], data: [index, gamma] })));
  }

  // ---- everything together ----

  $("file").addEventListener("change", () => { const [file] = $("file").files; if (file) count({ file }, file.name); });
  $("paste").addEventListener("input", () => { if ($("paste").value.trim()) count({ text: $("paste").value }, "What you pasted"); });
  $("example").addEventListener("click", async () => take((await (await fetch("web/example.json")).json()).cells, "The example, additions by a small policy"));
  for (const id of FIELDS) $(id).addEventListener("input", later);
  $("question").addEventListener("submit", (event) => event.preventDefault());
  $("save-objective").addEventListener("click", () => save("objective.json", `${JSON.stringify(shown.recommendation.objective, null, 1)}\n`, "application/json"));
  $("save-report").addEventListener("click", async () => save("report.html", await report(), "text/html"));
  $("link").addEventListener("click", async () => {
    remember();
    try { await navigator.clipboard.writeText(location.href); say("Copied."); } catch { say("Copy the address of this page: it has everything."); }
  });
  $("show-runs").addEventListener("click", runs);
  document.addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
  document.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    const [file] = event.dataTransfer.files;
    if (file) count({ file }, file.name);
  });
  addEventListener("hashchange", recall);
  $("key").addEventListener("change", async () => { if (!trainers.length) { say(""); await begin(); } later(); });

  async function begin() {
    const kept = location.hash;
    try {
      const catalog = await ask("v1/estimators");
      trainers = catalog.trainers;
      $("current").replaceChildren(...trainers.map(({ name, label: shownAs }) => element("option", { value: name, selected: name === "grpo" }, shownAs)));
      $("baseline").replaceChildren(...catalog.baselines.map(({ name, description }) => element("option", { value: name, title: description, selected: name === "bayes" }, name)));
    } catch (error) {
      failed(error);
    }
    if (kept) recall();
  }
  begin();
})();
