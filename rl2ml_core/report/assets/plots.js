"use strict";
// Plots by uPlot, each with a native table behind it. Nothing here computes: it draws what the library answered.
var rl2mlPlots = (() => {
  const HEIGHT = 260;

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return made;
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const number = (value, digits = 3) =>
    value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
  const percent = (value, digits = 1) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`);

  function table(head, rows) {
    const row = (cells, tag) =>
      element("tr", {}, cells.map((cell, i) => element(i ? tag : "th", { scope: tag === "th" ? "col" : i ? null : "row" }, String(cell))));
    return element("details", {},
      element("summary", {}, "The numbers"),
      // Reachable by keyboard, as it scrolls.
      element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The numbers behind the plot" },
        element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, rows.map((cells) => row(cells, "td"))))));
  }

  function view(title, how, numbers, draw, wide) {
    const space = element("div", { class: "plot", role: "img", "aria-label": `${title}. ${how}` });
    const card = element("section", { class: wide ? "card wide" : "card" }, element("h2", {}, title), element("p", { class: "how" }, how), space, numbers);
    if (draw) requestAnimationFrame(() => fitted(space, draw));
    return card;
  }

  // Drawn again where the space or the colours change.
  function fitted(space, draw) {
    let plot = null, width = 0;
    const again = () => {
      if (!space.isConnected) return;
      width = space.clientWidth;
      if (plot) plot.destroy();
      plot = width > 60 ? draw(space, width) : null;
    };
    again();
    new ResizeObserver(() => { if (Math.abs(space.clientWidth - width) > 4) again(); }).observe(space);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  }

  function axis(label, options) {
    const ink = color("soft"), line = color("line");
    return { label, labelSize: 22, size: 48, stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui", labelFont: "12px system-ui", ...options };
  }

  function lines(space, width, { x, y, series, data, log, bands, marks, legend = true }) {
    const [low, high] = x.range || [null, null];
    return new uPlot({
      width, height: HEIGHT,
      legend: { show: legend, live: false },
      cursor: { drag: { x: false, y: false } },
      scales: {
        x: { time: false, distr: log === "x" ? 3 : 1, range: low === null ? undefined : () => [low, high] },
        y: { distr: log === "y" ? 3 : 1, range: y.range ? () => y.range : undefined },
      },
      axes: [axis(x.label, { values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick))), size: 34 }), axis(y.label, { values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : y.shown ? y.shown(tick) : number(tick))), size: 60 })],
      series: [{ label: x.label }, ...series],
      bands,
      hooks: marks ? { draw: [(plot) => drawMarks(plot, marks)] } : {},
    }, data, space);
  }

  // Vertical lines with names; names keep apart by rows.
  function drawMarks(plot, marks) {
    const context = plot.ctx, ratio = devicePixelRatio || 1;
    const { left, top, width, height } = plot.bbox;
    context.save();
    context.font = `${12 * ratio}px system-ui`;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    marks.forEach((mark, row) => {
      const at = plot.valToPos(mark.at, "x", true);
      if (!(at >= left - 1 && at <= left + width + 1)) return;
      context.strokeStyle = context.fillStyle = color(mark.color);
      context.lineWidth = (mark.strong ? 2.5 : 1.5) * ratio;
      context.setLineDash(mark.strong ? [] : [5 * ratio, 4 * ratio]);
      context.beginPath();
      context.moveTo(at, top);
      context.lineTo(at, top + height);
      context.stroke();
      const length = context.measureText(mark.name).width;
      const start = at + length + 6 * ratio > left + width ? at - length - 4 * ratio : at + 4 * ratio;
      context.fillText(mark.name, start, top + height - (8 + 15 * row) * ratio);
    });
    context.restore();
  }

  function bars(space, width, { labels, values, colors, x, y }) {
    const places = values.map((_, i) => i);
    return new uPlot({
      width, height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => [-0.6, values.length - 0.4] }, y: { range: (_, __, most) => [0, most * 1.08 || 1] } },
      axes: [axis(x, { splits: () => places, values: () => labels, size: 34 }), axis(y, { size: 60 })],
      series: [{}, {
        label: y, points: { show: false }, stroke: color("main"), fill: color("band"),
        paths: uPlot.paths.bars({
          size: [0.85, 60],
          disp: { fill: { unit: 3, values: () => colors.map((name) => color(name)) }, stroke: { unit: 3, values: () => colors.map((name) => color(name)) } },
        }),
      }],
    }, [places, values], space);
  }

  // Named points; y is logarithmic.
  function points(space, width, { points: given, x, y }) {
    const sorted = [...given].sort((a, b) => a.x - b.x);
    const least = Math.min(...sorted.map((point) => point.y)), most = Math.max(...sorted.map((point) => point.y));
    const right = Math.max(...sorted.map((point) => point.x));
    return new uPlot({
      width, height: HEIGHT + 60,
      legend: { show: false },
      cursor: { show: false },
      scales: { x: { time: false, range: () => [-0.1 * right - 0.05, right * 1.3 + 0.2] }, y: { distr: 3, range: () => [least / 1.5, most * 1.5] } },
      axes: [axis(x, { size: 34 }), axis(y, { size: 60, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick))) })],
      series: [{}, { label: y, paths: () => null, points: { show: true, size: 8, fill: color("main"), stroke: color("main") } }],
      hooks: { draw: [(plot) => {
        const context = plot.ctx, ratio = devicePixelRatio || 1, taken = [];
        context.save();
        context.font = `${12 * ratio}px system-ui`;
        context.textAlign = "left";
        context.textBaseline = "alphabetic";
        const places = []; // points on top of each other share their names' line
        for (const point of sorted) {
          const at = plot.valToPos(point.x, "x", true), height = plot.valToPos(point.y, "y", true);
          const same = places.find((other) => Math.abs(other.at - at) < 8 * ratio && Math.abs(other.height - height) < 8 * ratio);
          if (same) Object.assign(same, { name: `${same.name}, ${point.name}`, color: same.color || point.color });
          else places.push({ ...point, at, height });
        }
        for (const point of places) {
          const { at, height } = point;
          if (point.color) {
            context.fillStyle = color(point.color);
            context.beginPath();
            context.arc(at, height, 6 * ratio, 0, 2 * Math.PI);
            context.fill();
          }
        }
        for (const point of places) {
          const { at, height } = point;
          let to = height + 4 * ratio;
          const start = at + 8 * ratio, end = start + context.measureText(point.name).width;
          while (taken.some((other) => Math.abs(other.to - to) < 13 * ratio && other.start < end && start < other.end)) to -= 13 * ratio;
          taken.push({ to, start, end });
          context.fillStyle = color(point.color || "ink");
          context.fillText(point.name, start, to);
        }
        context.restore();
      }] },
    }, [sorted.map((point) => point.x), sorted.map((point) => point.y)], space);
  }

  return { element, color, number, percent, table, view, lines, bars, points };
})();
