"use strict";
// A worker: from a file or text to cells [n, k, prompts]. Streams, so that a file may be larger than memory is.
// It takes what rl2ml.read_pilot takes, and tests hold its counts to it.
const MOST_ROLLOUTS = 1e7, EVERY = 4 << 20;
const NUMBER = /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i;
const REWARDS = new Map([["0", 0], ["1", 1], ["0.0", 0], ["1.0", 1], ["true", 1], ["false", 0], ["True", 1], ["False", 0]]);

class Wrong extends Error {}

class Counter {
  constructor(name) {
    this.name = name.toLowerCase();
    this.line = 0;
    this.take = null; // of a line
    this.cells = new Map(); // n · 2^26 + k → prompts
    this.prompts = new Map(); // id → [k, n]
    this.seen = new Set(); // ids of a table of counts
    this.open = ""; // a csv record whose quotes have not ended
  }

  push(line) {
    this.line += 1;
    const ended = line.endsWith("\r");
    if (ended) line = line.slice(0, -1);
    if (this.open) line = `${this.open}\n${line}`;
    if (this.take === null) {
      if (line.charCodeAt(0) === 0xfeff) line = line.slice(1);
      if (line.trim() === "") return;
      this.begin(line, ended);
    } else if (line !== "") this.take(line, ended);
  }

  begin(line, ended) {
    if (line.trimStart().startsWith("{")) {
      this.take = (text) => { if (text.trim() !== "") this.json(text); };
      this.json(line);
      return;
    }
    const separator = this.name.endsWith(".tsv") || (!this.name.endsWith(".csv") && line.includes("\t")) ? "\t" : ",";
    if (separator === "," && !line.includes(",") && line.includes(";")) throw this.wrong("columns are separated by semicolons; expected commas or tabs");
    const header = this.fields(line, separator, ended);
    if (header === null) return;
    const names = header.map((name) => name.trim());
    const roles = this.roles(names);
    const places = roles.names.map((name) => names.indexOf(name));
    this.take = (text, wasEnded) => {
      // Most rows have no quotes, and are split the fast way.
      const fields = this.open || text.includes('"') ? this.fields(text, separator, wasEnded) : text.split(separator);
      if (fields === null) return;
      if (fields.length !== names.length) throw this.wrong(`${fields.length} columns; expected ${names.length}, as in the header`);
      roles.add(fields[places[0]], fields[places[1]], fields[places[2]], fields[places[3]]);
    };
  }

  // The fields of a record; null where a quote goes on in the next line, and then the record is kept until it ends.
  fields(line, separator, ended) {
    const found = [];
    let field = "", state = "start"; // of a field: start, plain, quoted, closed
    for (let i = 0; i < line.length; i += 1) {
      const c = line[i];
      if (state === "quoted") {
        if (c !== '"') field += c;
        else if (line[i + 1] === '"') { field += c; i += 1; } else state = "closed";
      } else if (c === separator) { found.push(field); field = ""; state = "start"; }
      else if (state === "closed") throw this.wrong("is not csv: a quote ends inside of a field");
      else if (c === '"' && state === "start") state = "quoted";
      else { field += c; state = "plain"; }
    }
    if (state !== "quoted") {
      this.open = "";
      return [...found, field];
    }
    if (line.length > 1 << 20) throw this.wrong("a quote that does not end");
    this.open = ended ? `${line}\r` : line;
    return null;
  }

  roles(names) {
    if (names.includes("num_successes") && names.includes("num_rollouts")) {
      const optional = ["weight", "prompt_id"].filter((name) => names.includes(name));
      const at = Object.fromEntries(optional.map((name, i) => [name, i]));
      const add = (k, n, ...rest) => this.counts(k, n, rest[at.weight], rest[at.prompt_id]);
      return { names: ["num_successes", "num_rollouts", ...optional], add };
    }
    if (names.includes("prompt_id") && names.includes("reward")) return { names: ["prompt_id", "reward"], add: (id, reward) => this.rollout(id, reward) };
    throw this.wrong(`expected columns num_successes and num_rollouts, or prompt_id and reward; found ${names.slice(0, 12).join(", ").slice(0, 200) || "none"}`);
  }

  row(roles, value) {
    roles.add(...roles.names.map(value));
  }

  json(text) {
    let record;
    try { record = JSON.parse(text); } catch { throw this.wrong("is no JSON object"); }
    if (record === null || typeof record !== "object" || Array.isArray(record)) throw this.wrong("is no JSON object");
    this.roles_of ??= this.roles(Object.keys(record)); // of the first record
    for (const name of this.roles_of.names) if (!(name in record)) throw this.wrong(`lacks ${name}, which earlier lines have`);
    this.row(this.roles_of, (name) => (name === "prompt_id" ? this.keyed(record[name]) : record[name] === null || typeof record[name] === "object" ? "" : String(record[name])));
  }

  counts(k, n, weight = "1", id = undefined) {
    const [successes, rollouts, prompts] = [k, n, weight].map((text) => (NUMBER.test(text) ? Number(text) : NaN));
    if (!(Number.isInteger(successes) && Number.isInteger(rollouts) && successes >= 0 && successes <= rollouts && rollouts >= 1 && rollouts <= MOST_ROLLOUTS))
      throw this.wrong(`needs whole numbers with 0 ≤ num_successes ≤ num_rollouts and num_rollouts ≥ 1; got ${k.slice(0, 20)} of ${n.slice(0, 20)}`);
    if (!(prompts > 0 && Number.isFinite(prompts))) throw this.wrong(`weight must be above 0; got ${weight.slice(0, 20)}`);
    if (id !== undefined) {
      if (this.seen.has(id)) throw this.wrong(`prompt_id ${id.slice(0, 40)} appears twice; a table of counts has one row per prompt`);
      this.seen.add(id);
    }
    const key = rollouts * 67108864 + successes;
    this.cells.set(key, (this.cells.get(key) || 0) + prompts);
  }

  rollout(id, reward) {
    const success = REWARDS.get(reward.trim());
    if (success === undefined) throw this.wrong(`reward must be 0 or 1; got ${reward.slice(0, 30) || "nothing"}`);
    if (id === "") throw this.wrong("prompt_id is empty");
    const found = this.prompts.get(id);
    if (found) { found[0] += success; found[1] += 1; } else this.prompts.set(id, [success, 1]);
  }

  // An id as a key: 1 and "1" are two prompts, true and 1 are one, chats are told by their content.
  keyed(value) {
    if (value === null || value === "") return "";
    if (typeof value === "string") return value;
    const sorted = (_, part) => {
      // JSON's integers may be larger than this language can tell apart.
      if (Number.isInteger(part) && !Number.isSafeInteger(part)) throw this.wrong("prompt_id has a number that is too large here; write it as text");
      return part && typeof part === "object" && !Array.isArray(part) ? Object.fromEntries(Object.entries(part).sort()) : part;
    };
    return typeof value === "object" ? `\0json ${JSON.stringify(value, sorted)}` : `\0number ${Number(sorted("", value))}`;
  }

  wrong(what) {
    return new Wrong(`line ${this.line}: ${what}`);
  }

  result() {
    if (this.open) throw this.wrong("a quote that does not end");
    for (const [k, n] of this.prompts.values()) {
      const key = n * 67108864 + k;
      this.cells.set(key, (this.cells.get(key) || 0) + 1);
    }
    const cells = [...this.cells].map(([key, prompts]) => [Math.floor(key / 67108864), key % 67108864, prompts]);
    if (!cells.length) throw new Wrong("no rows");
    return cells.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  }
}

self.onmessage = async ({ data }) => {
  const counter = new Counter(data.name);
  try {
    const size = data.file ? data.file.size : data.text.length;
    const stream = data.file ? data.file.stream() : new Blob([data.text]).stream();
    const reader = stream.pipeThrough(new TextDecoderStream("utf-8", { fatal: true })).getReader();
    let rest = "", done = 0, told = 0;
    for (;;) {
      const part = await reader.read();
      if (part.done) break;
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      if (rest.length > 1 << 26) throw counter.wrong("is longer than 64 MiB");
      for (const line of lines) counter.push(line);
      done += part.value.length;
      if (done - told > EVERY) { told = done; self.postMessage({ progress: Math.min(1, done / size) }); }
    }
    if (rest) counter.push(rest);
    self.postMessage({ cells: counter.result() });
  } catch (error) {
    self.postMessage({ error: error instanceof Wrong ? error.message : error instanceof TypeError ? "not UTF-8 text; expected csv, tsv or jsonl" : String(error) });
  }
};
