"use strict";
// From an answer to what people read: the sentence first, then how sure, what is at stake and what to change, then why.
var rl2mlViews = (() => {
  const { element, color, number, percent, table, view, lines, bars, points } = rl2mlPlots;
  const STATUS = {
    interior: "The best γ lies inside the range.",
    at_lower_bound: "The best γ is the lowest of the range.",
    at_upper_bound: "The best γ is the highest of the range.",
    flat: "γ hardly matters here: keep what you have.",
    prior_dominated: "The pilot says little: the prior decides. Sample more prompts.",
    uninformative: "The pilot cannot tell one objective from another.",
  };
  const signed = (value) => (value === null ? "–" : `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)} %`);
  const range = (interval, shown = (value) => number(value, 3)) => (interval ? `${shown(interval.lower)} to ${shown(interval.upper)}` : "not computed");

  function answer(data) {
    const { recommendation: found } = data;
    return element("section", { class: "card answer" }, element("p", { class: "sentence" }, found.summary),
      element("p", {}, STATUS[found.status] || found.status), element("p", { class: "soft" },
        "γ is the objective's parameter, not a discount factor: 0 is plain RL (pass@1), 1 is maximum likelihood, above 1 hard prompts count more still."));
  }

  function fact(title, ...rows) {
    return element("section", { class: "card" }, element("h2", {}, title), rows.map((row) => element("p", {}, row)));
  }

  function facts(data) {
    const { recommendation: found, trainer } = data;
    if (found.gamma === null) return null;
    const over = found.predicted_gain_over, within = found.gain_intervals || {};
    const gain = (name, key) => `${signed(over[key])} over ${name}` + (within[key] ? ` (${range(within[key], signed)})` : "");
    const rate = found.learning_rate;
    return element("div", { class: "facts" },
      fact("How sure", `Any γ from ${range(found.near_optimal)} is within ${percent(found.near_optimal.loss, 0)} of the best.`,
        found.interval ? `The best γ itself is in ${range(found.interval)} with probability ${percent(found.interval.level, 0)}.` : "Working out the interval …",
        found.expected_regret === null ? "" : `Expected loss of this choice: ${percent(found.expected_regret, 2)} of the gain.`),
      fact("Does it matter", "Predicted gain over a training run of the same length and rollouts:", gain(trainer, "current"), gain("γ = 0 (RL)", "rl"), gain("γ = 1 (maximum likelihood)", "maxrl")),
      fact("What to change", "The advantages: a table by success count replaces your trainer's (below).",
        rate ? `Learning rate: × ${number(rate.multiplier)} of the one tuned for ${rate.relative_to}, for SGD-like optimizers. Leave Adam's as it is.` : ""));
  }

  function criterion(data) {
    const { recommendation: found, analyses } = data;
    const { gamma, relative_criterion: value, lower, upper } = found.curve;
    const marks = [{ at: 0, name: "RL", color: "rl" }, { at: 1, name: "max. likelihood", color: "ml" }];
    const now = analyses.find((one) => one.is_current);
    if (now && now.nearest && now.nearest.gamma !== null) marks.push({ at: now.nearest.gamma, name: `≈ ${now.label}`, color: "now" });
    marks.push({ at: found.gamma, name: `γ = ${number(found.gamma)}`, color: "main", strong: true });
    const banded = Boolean(lower && upper);
    const rows = gamma.map((g, i) => [number(g), percent(value[i]), ...(banded ? [percent(lower[i]), percent(upper[i])] : [])]);
    const least = Math.min(...value, ...(banded ? lower : []));
    return view("The criterion over γ", "Higher is better: what share of the best predicted gain each γ reaches. A flat top means that γ hardly matters; the band is how the pilot's uncertainty moves the curve.",
      table(["γ", "share of the best", ...(banded ? ["lower", "upper"] : [])], rows),
      (space, width) => lines(space, width, {
        x: { label: "γ", range: [gamma[0], gamma[gamma.length - 1]] },
        y: { label: "share of the best gain", range: [Math.max(least - 0.03, -0.2), 1.03], shown: (tick) => percent(tick, 0) },
        series: [
          { label: "criterion", stroke: color("main"), width: 2.5, points: { show: false } },
          ...(banded ? [{ label: "upper", stroke: color("band"), points: { show: false } }, { label: "lower", stroke: color("band"), points: { show: false } }] : []),
        ],
        bands: banded ? [{ series: [2, 3], fill: color("band") }] : [],
        data: [gamma, value, ...(banded ? [upper, lower] : [])],
        marks, legend: false,
      }), true);
  }

  // The place of a view whose numbers are on their way, so that nothing jumps when they come.
  function awaited(data, title, wide) {
    return data.pending ? view(title, "One moment …", table([], []), null, wide) : null;
  }

  function weights(data) {
    const shown = data.analyses.filter((one) => one.compared);
    if (!shown.length) return awaited(data, "What prompts count");
    const rates = shown[0].pass_rates;
    const scaled = shown.map((one) => { // Only the shape matters: all are 1 at p = .5.
      const half = one.weights[rates.indexOf(0.5)] || Math.max(...one.weights.map(Math.abs)) || 1;
      return one.weights.map((weight) => weight / half);
    });
    return view("What prompts count", "How much a prompt of each pass rate moves the policy, next to one of pass rate ½. A curve that rises to the left puts its effort into hard prompts.",
      table(["pass rate", ...shown.map((one) => one.label)], rates.map((rate, i) => [number(rate), ...scaled.map((one) => number(one[i]))])),
      (space, width) => lines(space, width, {
        x: { label: "pass rate of the prompt" },
        y: { label: "weight, relative to p = ½" },
        series: shown.map((one) => ({ label: one.label, stroke: color(one.color), width: 2, points: { show: true, size: 5 } })),
        data: [rates, ...scaled],
      }));
  }

  function scales(data) {
    const scale = data.recommendation.objective.update_scales, shown = data.analyses.filter((one) => one.compared);
    if (!scale || scale.length < 3) return null;
    if (!shown.length) return awaited(data, "What groups count");
    const counts = scale.slice(0, -1).map((_, i) => i + 1), half = Math.floor(scale.length / 2);
    const gaps = shown.map(({ advantages: { success, failure } }) => {
      const gap = counts.map((k) => success[k] - failure[k]), unit = gap[half - 1] || 1;
      return gap.map((one) => one / unit);
    });
    return view("What groups count", "How far a success is set apart from a failure in a group with K successes, next to a group that is half and half. Rare successes are set further apart where γ is large.",
      table(["successes", ...shown.map((one) => one.label), "update scale α_K of the choice"], counts.map((k, i) => [k, ...gaps.map((gap) => number(gap[i])), number(scale[i])])),
      (space, width) => lines(space, width, {
        x: { label: `successes K of ${scale.length}` },
        y: { label: "advantage gap, relative to K = N/2" },
        series: shown.map((one) => ({ label: one.label, stroke: color(one.color), width: 2, points: { show: counts.length < 40, size: 5 } })),
        data: [counts, ...gaps],
      }));
  }

  function pilot(data) {
    const names = ["none", "0–.1", ".1–.2", ".2–.3", ".3–.4", ".4–.5", ".5–.6", ".6–.7", ".7–.8", ".8–.9", ".9–1", "all"];
    const counts = names.map(() => 0);
    for (const [n, k, prompts] of data.cells) {
      const place = k === 0 ? 0 : k === n ? 11 : 1 + Math.min(9, Math.floor((10 * k) / n));
      counts[place] += prompts;
    }
    const total = counts.reduce((sum, count) => sum + count, 0);
    return view("Your pilot", `${total.toLocaleString("en")} prompts by the share of their rollouts that succeeded. Prompts at the ends (none, all) give group-based trainers no signal.`,
      table(["success rate", "prompts", "share"], names.map((name, i) => [name, counts[i].toLocaleString("en"), percent(counts[i] / total)])),
      (space, width) => bars(space, width, {
        labels: width < 480 ? names.map((name, i) => (i % 11 ? "" : name)) : names, values: counts,
        colors: names.map((_, i) => (i === 0 ? "rl" : i === 11 ? "ml" : "main")), x: "success rate", y: "prompts",
      }));
  }

  function trainers(data) {
    const known = data.analyses.filter((one) => one.nearest && one.nearest.gamma !== null && one.noise_to_signal > 0 && !one.hidden);
    if (known.length < 2) return awaited(data, "Trainers on one map", true);
    const most = Math.max(2, ...known.map((one) => one.nearest.gamma).filter((gamma) => gamma <= 4));
    return view("Trainers on one map", "Left to right: the γ that a trainer comes closest to (an arrow: further right). Bottom to top: how noisy one group's gradient is. Lower is better at the same γ.",
      table(["trainer", "nearest γ", "cosine", "noise per signal"], known.map((one) => [one.label, number(one.nearest.gamma), number(one.nearest.cosine), number(one.noise_to_signal)])),
      (space, width) => points(space, width, {
        points: known.map((one) => ({ x: Math.min(one.nearest.gamma, most), y: one.noise_to_signal, name: one.nearest.gamma > most ? `${one.label} →` : one.label, color: one.is_choice ? "main" : one.is_current ? "now" : null })),
        x: "nearest γ", y: "noise per signal (log)",
      }), true);
  }

  function kappa(data) {
    const found = data.recommendation.kappa_sensitivity.filter((one) => one.gamma !== null);
    if (!found.length) return null;
    return view("If κ were another", "κ is the share of a score's energy that is about success; it is rarely measured. The more noise (small κ), the smaller the best γ.",
      table(["κ", "best γ", "this choice would lose"], found.map((one) => [number(one.kappa), number(one.gamma), percent(one.regret)])),
      (space, width) => lines(space, width, {
        x: { label: "κ (log)" }, y: { label: "best γ", range: [0, Math.max(...found.map((one) => one.gamma), data.recommendation.gamma) * 1.15 + 0.05] },
        log: "x",
        series: [
          { label: "best γ", stroke: color("main"), width: 2, points: { show: true, size: 6 } },
          { label: "recommended", stroke: color("now"), dash: [5, 4], points: { show: false } },
        ],
        data: [found.map((one) => one.kappa), found.map((one) => one.gamma), found.map(() => data.recommendation.gamma)],
      }));
  }

  function checks(data) {
    const found = data.recommendation.diagnostics;
    return element("section", { class: "card wide" }, element("h2", {}, "Health checks"),
      found.length ? element("ul", { class: "checks" }, found.map((one) => element("li", { class: one.level }, one.detail))) : element("p", {}, "Nothing to say against it."));
  }

  function usage(data) {
    const { objective } = data.recommendation, n = objective.num_rollouts, { success, failure } = objective.advantages;
    const code = (title, text) => [element("h3", {}, title), element("pre", { tabindex: "0", role: "region", "aria-label": title }, element("code", {}, text))];
    return element("section", { class: "card wide" }, element("h2", {}, "What to paste"),
      element("p", { class: "how" }, "Save objective.json, and give it to your trainer. In a group with k successes each success gets the first advantage and each failure the second."),
      code("TRL", `from rl2ml_core.training.trl import RL2MLConfig, RL2MLTrainer\n\nargs = RL2MLConfig(output_dir="run", objective="objective.json", num_generations=${n})\ntrainer = RL2MLTrainer(model, reward_funcs=accuracy, args=args, train_dataset=prompts)`),
      code("verl", `python -m verl.trainer.main_ppo algorithm.adv_estimator=rl2ml +algorithm.rl2ml_objective=$PWD/objective.json actor_rollout_ref.rollout.n=${n}`),
      code("Python", `import rl2ml_core as rl2ml\n\ntable = rl2ml.Objective.load("objective.json").table(${n})\nadvantages = table.advantages(rewards)  # [groups, ${n}] of 0 and 1`),
      n <= 1024 ? table(["successes", "a success", "a failure"], success.map((_, k) => [k, number(success[k]), number(failure[k])])) : null);
  }

  // Everything about an answer, in the order in which people ask.
  function render(root, data) {
    const chosen = data.recommendation.gamma !== null;
    const why = chosen
      ? [criterion(data), weights(data), scales(data), pilot(data), kappa(data), trainers(data), checks(data), usage(data)]
      : [pilot(data), checks(data)];
    const tables = () => [...root.querySelectorAll("section.card")].filter((card) => card.querySelector("details")).map((card) => [card.querySelector("h2").textContent, card.querySelector("details")]);
    const opened = new Set(tables().filter(([, one]) => one.open).map(([title]) => title));
    root.replaceChildren(answer(data), ...[facts(data)].filter(Boolean), element("div", { class: "views" }, why.filter(Boolean)));
    for (const [title, one] of tables()) one.open = opened.has(title); // as people left them
  }

  return { render };
})();
