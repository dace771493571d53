"use strict";
// The episodes of report.html. What an episode says is only ever set as text, never as HTML.
(() => {
  const PAGE = 50;
  const ENDINGS = { terminated: "ended by the environment", truncated: "step limit", overflow: "context was full" };
  const [STAGE, SPLIT, TYPE, TASK, POLICY, ENDING, PAIR, KIND, REWARD, START, STEPS, BLOCK, PLACE] = Array(13).keys();
  const HINT = "Choose an episode: j, k and Enter, or a click.";
  const place = document.getElementById("viewer");

  function make(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "onclick" || name === "oninput") made[name] = value;
      else if (value !== undefined && value !== null) made.setAttribute(name, value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  async function start() {
    if (typeof DecompressionStream === "undefined") {
      place.append(make("p", {}, "This browser is too old to show the episodes (it has no DecompressionStream)."));
      return;
    }
    const index = await unpack("index");
    const { names, rows } = index;
    const text = (i, column) => names[column][rows[i][{ stage: STAGE, split: SPLIT, type: TYPE, task: TASK, policy: POLICY, ending: ENDING, pair: PAIR, kind: KIND }[column]]];
    const byTask = new Map();
    rows.forEach((row, i) => {
      if (!byTask.has(row[TASK])) byTask.set(row[TASK], []);
      byTask.get(row[TASK]).push(i);
    });

    function outcome(reward) {
      if (reward >= index.success) return ["\u25cf", "solved"];
      return reward > 0 ? ["\u25d0", "in part"] : ["\u25cb", "failed"];
    }
    const shown = (reward) => { const [sign, word] = outcome(reward); return `${sign} ${word} ${reward.toFixed(2)}`; };

    // Episodes, unpacked block by block -------------------------------------------------------------------------

    const blocks = new Map();
    async function episode(i) {
      const row = rows[i];
      if (!blocks.has(row[BLOCK])) blocks.set(row[BLOCK], unpack(`block-${row[BLOCK]}`));
      const own = (await blocks.get(row[BLOCK]))[row[PLACE]];
      if (own.expert === undefined) return own;
      const expert = await episode(own.expert);
      return { ...own, first: expert.first, steps: [...expert.steps.slice(0, own.same), ...own.steps] };
    }

    // Filters ----------------------------------------------------------------------------------------------------

    const filters = make("div", { class: "filters", role: "search" });
    const chosen = {};
    function offer(key, label, values) {
      const select = make("select", { id: `filter-${key}`, oninput: filter }, make("option", { value: "" }, "all"));
      values.forEach(([value, name]) => select.append(make("option", { value }, name)));
      chosen[key] = select;
      filters.append(make("label", {}, label, select));
    }
    const of = (column, name) => names[column].map((value, k) => [String(k), name ? name(value) : value || "(none)"]);
    offer("stage", "stage", of("stage"));
    offer("kind", "from", of("kind"));
    offer("split", "split", of("split"));
    offer("type", "task type", of("type"));
    offer("outcome", "outcome", ["solved", "in part", "failed"].map((word) => [word, word]));
    offer("ending", "ending", of("ending", (value) => ENDINGS[value] || value));
    offer("pair", "pair", of("pair"));
    const search = make("input", { type: "search", id: "filter-text", placeholder: "/", oninput: filter, autocomplete: "off" });
    filters.append(make("label", {}, "problem", search));
    const count = make("span", { class: "note", "aria-live": "polite" });
    filters.append(count);

    const list = make("ol", { role: "listbox", "aria-label": "episodes", tabindex: "0" });
    const pageText = make("span", {});
    const back = make("button", { type: "button", onclick: () => turn(-1) }, "[ previous");
    const forth = make("button", { type: "button", onclick: () => turn(1) }, "next ]");
    const detail = make("div", { class: "episode", "aria-live": "polite" });
    place.append(filters, make("div", { class: "list" }, list, make("div", { class: "pager" }, back, pageText, forth)), detail);

    let found = [];
    let at = 0; // of the found ones, the selected
    let open = null;

    function filter() {
      const words = search.value.toLowerCase();
      const columns = [["stage", STAGE], ["kind", KIND], ["split", SPLIT], ["type", TYPE], ["ending", ENDING], ["pair", PAIR]];
      const wanted = columns.filter(([key]) => chosen[key].value !== "").map(([key, column]) => [column, Number(chosen[key].value)]);
      found = [];
      rows.forEach((row, i) => {
        if (wanted.some(([column, value]) => row[column] !== value)) return;
        if (chosen.outcome.value && outcome(row[REWARD])[1] !== chosen.outcome.value) return;
        if (words && !names.task[row[TASK]].toLowerCase().includes(words)) return;
        found.push(i);
      });
      at = 0;
      draw();
    }

    function line(i) {
      const row = rows[i];
      const pair = text(i, "pair");
      const where = [text(i, "stage"), text(i, "kind") === "expert" ? "" : text(i, "kind"), text(i, "split")];
      const more = [row[START] ? `from step ${row[START] + 1}` : "", `${row[STEPS]} steps`, pair === "none" ? "" : `\u25c6 ${pair} pair`];
      return [
        make("div", { class: "top" }, make("b", {}, names.task[row[TASK]]), make("span", { class: "outcome" }, shown(row[REWARD]))),
        make("div", { class: "sub" }, [...where, ...more, text(i, "type")].filter(Boolean).join(", ")),
      ];
    }

    function draw() {
      const page = Math.floor(at / PAGE);
      const pages = Math.max(1, Math.ceil(found.length / PAGE));
      count.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} episodes`;
      pageText.textContent = `page ${page + 1} of ${pages}`;
      back.disabled = page === 0;
      forth.disabled = page >= pages - 1;
      list.replaceChildren(...found.slice(page * PAGE, (page + 1) * PAGE).map((i, k) =>
        make("li", { role: "option", "aria-selected": String(page * PAGE + k === at), onclick: () => { at = page * PAGE + k; draw(); show(i); } }, line(i))));
      const selected = list.querySelector("[aria-selected=true]");
      if (selected) list.scrollTop = Math.max(0, selected.offsetTop - list.offsetTop - 120);
    }

    function turn(by) {
      const page = Math.floor(at / PAGE) + by;
      if (page < 0 || page * PAGE >= found.length) return;
      at = page * PAGE;
      draw();
    }

    // One episode ------------------------------------------------------------------------------------------------

    function range(mean, n) { // Wilson's interval; see ipr.evaluate.wilson
      const p = Math.min(1, Math.max(0, mean)), z = 1.96, middle = (p + z * z / (2 * n)) / (1 + z * z / n);
      const half = z * Math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
      return [Math.max(0, middle - half), Math.min(1, middle + half)];
    }

    function rewardOf(content, t, stage) { // of the stage that is looked at; else the last one that has it
      const all = (content.rewards || {})[t];
      return all ? all.find((one) => one.stage === stage) || all[all.length - 1] : null;
    }

    function bar(reward) {
      if (!reward) return null;
      const percent = (x) => `${(100 * Math.min(1, Math.max(0, x))).toFixed(1)}%`;
      const line = make("div", { class: "bar", role: "img", "aria-label": `step reward ${reward.mean.toFixed(2)}` });
      const fill = make("i");
      fill.style.width = percent(reward.mean);
      line.append(fill);
      let told = "n = 0, the action ended the episode: its outcome";
      if (reward.n > 0) {
        const [low, high] = range(reward.mean, reward.n);
        const whisker = make("u");
        whisker.style.left = percent(low);
        whisker.style.width = percent(high - low);
        line.append(whisker);
        told = `n = ${reward.n}`;
        if (reward.source === "curtailed") told += ` of ${reward.planned}, stopped when the decision was fixed (censored)`;
        line.title = `95 %: ${low.toFixed(2)} to ${high.toFixed(2)} (Wilson, n = ${reward.n})`;
      }
      const samples = reward.samples.map((x) => { const [sign] = outcome(x); return make("span", {}, `${sign} ${x.toFixed(2)}`); });
      return make("div", { class: "reward" }, make("span", {}, `step reward ${reward.mean.toFixed(2)}`), line, make("span", {}, told),
        samples.length ? make("div", { class: "samples" }, `the scorer's ${samples.length} outcomes: `, samples) : null);
    }

    function words(action) {
      const cut = action.lastIndexOf("\nAction:");
      if (cut < 0) return [make("span", { class: "said" }, action)];
      return [make("span", { class: "thought" }, action.slice(0, cut + 1)), make("span", { class: "said" }, action.slice(cut + 1))];
    }

    function step(content, t, side, label, stage) {
      if (t >= content.steps.length) return make("div", { class: "step missing" }, t === content.steps.length ? "(ended)" : "");
      const [action, observation] = content.steps[t];
      return make("div", { class: `step ${side}` },
        make("div", { class: "who" }, `${label ? `${label}, ` : ""}step ${t + 1}`),
        make("pre", {}, words(action)), make("pre", { class: "answer" }, `\u2192 ${observation}`),
        side === "same" ? null : bar(rewardOf(content, t, stage)));
    }

    function named(i) {
      const row = rows[i];
      return text(i, "kind") === "expert" ? "expert" : `${text(i, "stage")}, ${text(i, "kind")} on ${text(i, "split")}${row[START] ? ` from step ${row[START] + 1}` : ""}`;
    }

    function partners(i) { // other episodes of the problem, the most telling one first
      const others = byTask.get(rows[i][TASK]).filter((k) => k !== i);
      const rank = (k) => {
        if (text(i, "kind") === "expert") return text(k, "pair") === "none" ? 2 : 0;
        if (text(k, "kind") === "expert") return 0;
        return rows[k][SPLIT] === rows[i][SPLIT] && text(k, "stage") === "sft" ? 1 : 2;
      };
      return others.sort((a, b) => rank(a) - rank(b) || a - b);
    }

    function margin(pair) { return `margin ${pair.margin.toFixed(2)}, ${pair.winner === "expert" ? "\u25c6 the expert's" : "\u25b2 the agent's"} remainder is chosen`; }

    function origin(i, content, other, beside) {
      const lines = [];
      if (text(i, "kind") === "explored") {
        for (const pair of content.pairs) {
          lines.push(`${pair.level === "step" ? `Step pair at step ${pair.t + 1}` : "Outcome pair"} of ${text(i, "stage")}: ${margin(pair)}.`);
        }
        if (!content.pairs.length) lines.push(`No pair was made of it in ${text(i, "stage")}.`);
        if (beside && text(other, "kind") === "expert") {
          lines.push(`Outcome: \u25c6 expert ${rows[other][REWARD].toFixed(2)}, \u25b2 agent ${rows[i][REWARD].toFixed(2)} (a pair needs a difference above ${index.outcome_margin}).`);
          const t = rows[i][START], stage = text(i, "stage");
          const mine = rewardOf(content, t, stage), theirs = rewardOf(beside, t, stage);
          if (mine && theirs) lines.push(`Step reward at step ${t + 1}: \u25c6 expert ${theirs.mean.toFixed(2)} (n = ${theirs.n}), \u25b2 agent ${mine.mean.toFixed(2)} (n = ${mine.n}); a step pair needs a difference above tau = ${index.tau}.`);
          else if (content.steps[t] && beside.steps[t]) lines.push(content.steps[t][0] === beside.steps[t][0] ? "Both took the same action, so neither was scored." : `The actions of step ${t + 1} were not scored in ${stage}.`);
        }
      } else if (text(i, "kind") === "expert" && content.pairs.length) {
        lines.push(`It is a side of ${content.pairs.length} pairs; the agents' episodes are below, under "beside".`);
      }
      return lines.length ? make("div", { class: "box" }, lines.map((one) => make("p", {}, one))) : null;
    }

    async function show(i, besideIt) {
      open = i;
      const content = await episode(i);
      const others = partners(i);
      const other = besideIt === undefined ? (others.length ? others[0] : null) : besideIt;
      const beside = other === null ? null : await episode(other);
      if (open !== i) return; // another one was opened meanwhile
      place.classList.add("opened");
      history.replaceState(null, "", `#episode-${i}`);

      const row = rows[i];
      const facts = [named(i), text(i, "type"), ENDINGS[text(i, "ending")] || text(i, "ending"), `${row[STEPS]} steps`,
        content.invalid ? `${content.invalid} invalid actions` : "", `played by ${text(i, "policy") || "unknown"}`, `seed ${content.seed}`];
      const select = make("select", { oninput: () => show(i, select.value === "" ? null : Number(select.value)) },
        make("option", { value: "" }, "nothing"),
        others.map((k) => make("option", { value: k }, `${named(k)}: ${shown(rows[k][REWARD])}${text(k, "pair") === "none" || text(k, "kind") === "expert" ? "" : `, ${text(k, "pair")} pair`}`)));
      select.value = other === null ? "" : String(other);

      const expertIs = (k) => text(k, "kind") === "expert";
      // The expert is always on the left; of two agents' episodes the one that was opened is on the right.
      const left = other !== null && !expertIs(i) ? [other, beside] : [i, content];
      const right = other === null ? null : expertIs(i) ? [other, beside] : [i, content];
      let same = 0;
      if (right) while (same < Math.min(left[1].steps.length, right[1].steps.length) && left[1].steps[same][0] === right[1].steps[same][0] && left[1].steps[same][1] === right[1].steps[same][1]) same += 1;

      const stage = [i, other].map((k) => (k === null ? null : k)).filter((k) => k !== null && !expertIs(k)).map((k) => text(k, "stage"))[0];
      const side = (k) => (expertIs(k) ? "expert" : k === left[0] && right ? "expert" : "agent");
      const label = (k) => (expertIs(k) ? "\u25c6 expert" : `${side(k) === "expert" ? "\u25c6" : "\u25b2"} ${text(k, "stage")}`);
      const sides = make("div", { class: right ? "sides" : "sides one" });
      const heading = (k) => make("div", { class: `head ${side(k)}` }, label(k), make("small", {}, `${named(k)}; ${shown(rows[k][REWARD])}; ${ENDINGS[text(k, "ending")] || text(k, "ending")}`));
      sides.append(heading(left[0]));
      if (right) sides.append(heading(right[0]));
      const last = Math.max(left[1].steps.length, right ? right[1].steps.length : 0);
      for (let t = same; t < last; t += 1) {
        sides.append(step(left[1], t, side(left[0]), label(left[0]), stage));
        if (right) sides.append(step(right[1], t, side(right[0]), label(right[0]), stage));
      }
      const shared = same ? make("details", {}, make("summary", {}, same === 1 ? "Step 1, the same in both" : `Steps 1 to ${same}, the same in both`)) : null;
      for (let t = 0; t < same; t += 1) shared.append(step(content, t, "same", "", stage));
      const start = make("details", {}, make("summary", {}, "The problem, as the agent sees it"), make("pre", {}, content.first));
      if (content.first.length < 900) start.open = true;

      detail.replaceChildren(
        make("h3", {}, make("span", {}, `${names.task[row[TASK]]}  ${shown(row[REWARD])}`), make("button", { type: "button", onclick: close }, "Esc back")),
        make("p", { class: "facts" }, facts.filter(Boolean).join(", ")), origin(i, content, other, beside) || "", start,
        others.length ? make("p", { class: "beside" }, "beside:", select) : "", shared || "", sides);
    }

    function close() {
      open = null;
      place.classList.remove("opened");
      history.replaceState(null, "", "#episodes");
      detail.replaceChildren(make("p", { class: "empty" }, HINT));
      draw();
    }

    // Keys -------------------------------------------------------------------------------------------------------

    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
      if (event.key === "Escape") {
        if (typing) event.target.blur();
        else if (open !== null) close();
        return;
      }
      if (typing && !(event.key === "Enter" && event.target === search)) return;
      const move = { j: 1, k: -1 }[event.key];
      if (move) {
        at = Math.min(found.length - 1, Math.max(0, at + move));
        draw();
        if (open !== null && found.length) show(found[at]);
        else list.scrollIntoView({ block: "nearest" });
      } else if (event.key === "Enter" && event.target.tagName !== "BUTTON" && event.target.tagName !== "SUMMARY" && event.target.tagName !== "A") {
        event.target.blur();
        if (found.length) show(found[at]);
      } else if (event.key === "/") {
        if (matchMedia("(max-width: 900px)").matches && open !== null) close();
        search.focus();
        search.scrollIntoView({ block: "nearest" });
      } else if (event.key === "[" || event.key === "]") turn(event.key === "]" ? 1 : -1);
      else return;
      event.preventDefault();
    });

    filter();
    const asked = /^#episode-(\d+)$/.exec(location.hash);
    if (asked && Number(asked[1]) < rows.length) {
      at = Number(asked[1]);
      draw();
      await show(at);
      place.scrollIntoView();
    } else detail.append(make("p", { class: "empty" }, HINT));
  }

  start().catch((error) => place.append(make("p", {}, `The episodes could not be read: ${error}`)));
})();
