"use strict";
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const numbers = read("numbers");
  const names = numbers.parameters;
  const slider = document.getElementById("moment");
  let moment = 0, picked = [], wholeRun = false, nearOne = false;

  const show = (value, digits = 4) => {
    if (value === null) return "not finite";
    const size = Math.abs(value);
    const text = size !== 0 && (size < 1e-3 || size >= 1e5)
      ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
    return text.replace(/-/g, "\u2212");
  };
  const complex = (re, im) =>
    im === 0 ? show(re) : `${show(re)} ${im < 0 ? "\u2212" : "+"} ${show(Math.abs(im))}i`;
  const timescale = (size) =>
    size >= 1 ? "never" : size === 0 ? "0" : show(-1 / Math.log(size), 3);

  const rowsOf = {
    loss: (k) => ({
      lines: numbers.losses.steps.map((step, i) => ({ step, loss: numbers.losses.values[i] })),
      points: [{ step: numbers.steps[k], loss: numbers.moment_losses[k] }],
      rule: [{ step: numbers.steps[k] }],
    }),
    rates: (k) => ({
      lines: names.flatMap((parameter, p) => numbers.steps.map(
        (step, j) => ({ parameter, step, rate: numbers.rates[j][p] }))),
      points: names.map((parameter, p) =>
        ({ parameter, step: numbers.steps[k], rate: numbers.rates[k][p] })),
      rule: [{ step: numbers.steps[k] }],
    }),
    updates: (k) => {
      const reach = wholeRun ? numbers.whole_range : numbers.ranges[k];
      const table = (wholeRun ? numbers.whole_updates : numbers.updates)[k];
      const last = table[0].length - 1;
      return {
        lines: names.flatMap((parameter, p) => table[p].map((update, i) =>
          ({ parameter, gradient: reach * (2 * i / last - 1), update }))),
        points: names.map((parameter, p) => (
          { parameter, gradient: numbers.gradients[k][p], update: numbers.met_updates[k][p] }
        )).filter((row) => Math.abs(row.gradient) <= reach),
      };
    },
    modes: (k) => {
      const largest = Math.max(...numbers.modes[k].flat().map(
        ([, , re, im]) => (re === null ? 0 : Math.hypot(re, im))));
      return {
        points: names.flatMap((parameter, p) => numbers.modes[k][p].filter(([re]) => re !== null)
          .map(([real, imaginary, re, im]) => {
            const size = Math.hypot(real, imaginary), known = re !== null;
            const share = known && largest > 0 ? Math.hypot(re, im) / largest : 0;
            return {
              parameter, real, imaginary, size, timescale: timescale(size),
              eigenvalue: complex(real, imaginary),
              rate: known ? complex(re, im) : "unknown: near-defective",
              area: known ? 25 + 375 * share : 60, fill: known ? 0.5 : 0,
            };
          })),
      };
    },
    density: (k) => {
      const edges = numbers.log10_edges.map((log10) => 10 ** log10);
      const decades = numbers.log10_edges[1] - numbers.log10_edges[0];
      const histogram = (group, counts, total, color) => counts.map((count, i) => (
        { group, color, count, low: edges[i], high: edges[i + 1], zero: 0,
          share: count / total / decades }
      )).filter((row) => row.count > 0);
      // One bar without a size, because an axis of no rows has no ends.
      const none = [{ group: "", color: "#fff", low: edges[0], high: edges[0], zero: 0, share: 0 }];
      const groups = [...new Set(picked.map((name) => numbers.groups[names.indexOf(name)]))];
      return {
        bars: histogram("all", numbers.total_counts[k], numbers.dim, ""),
        over: numbers.group_names.length < 2 || !picked.length ? none : groups.flatMap((g) => histogram(
          numbers.group_names[g], numbers.counts[k][g], numbers.group_sizes[g],
          numbers.colors[numbers.groups.indexOf(g)])),
        points: names.map((parameter, p) => ({
          parameter, gradient: numbers.gradients[k][p], low: Math.abs(numbers.gradients[k][p]),
          color: numbers.colors[p],
        })).filter((row) => row.low > 0),
      };
    },
  };

  const signalsOf = {
    updates: (k) => ({ reach: wholeRun ? numbers.whole_range : numbers.ranges[k] }),
    modes: () => (nearOne ? { middle: 0.9, reach: 0.12 } : { middle: 0, reach: plane }),
    density: () => ({
      lowest: 10 ** numbers.log10_edges[0],
      highest: 10 ** numbers.log10_edges[numbers.log10_edges.length - 1],
    }),
  };
  const sizes = numbers.modes.flat(2).filter(([re]) => re !== null)
    .map(([re, im]) => Math.hypot(re, im));
  const plane = 1.1 * sizes.reduce((most, size) => Math.max(most, size), 1);

  const circle = Array.from({ length: 181 }, (_, i) => i * Math.PI / 90)
    .map((angle) => ({ angle, real: Math.cos(angle), imaginary: Math.sin(angle) }));

  // Views, one a panel, whose rows and signals follow from the moment.
  const views = {};
  for (const [name, specification] of Object.entries(read("specifications"))) {
    specification.datasets = { ...specification.datasets, ...rowsOf[name](0), circle };
    const made = await vegaEmbed(`#${name}`, specification, { actions: false, renderer: "svg" });
    views[name] = made.view;
  }

  const draw = () => {
    const k = moment;
    for (const [name, view] of Object.entries(views)) {
      for (const [data, rows] of Object.entries(rowsOf[name](k))) view.data(data, rows);
      for (const [signal, value] of Object.entries(signalsOf[name]?.(k) ?? {}))
        view.signal(signal, value);
      if (name !== "loss") view.signal("picked", picked);
      view.runAsync();
    }
    const where = `After ${numbers.steps[k]} of ${numbers.planned_steps} updates: ` +
      `loss ${show(numbers.moment_losses[k])}`;
    document.getElementById("where").textContent = where;
    slider.setAttribute("aria-valuetext", where);
    slider.value = String(k);
    remark(k);
    fillTable(k);
    for (const chip of document.querySelectorAll("#chips button")) {
      const members = JSON.parse(chip.dataset.members);
      const chosen = members.every((name) => picked.includes(name));
      chip.setAttribute("aria-pressed", String(chosen));
      chip.classList.toggle("faint", picked.length > 0 && !members.some((m) => picked.includes(m)));
    }
  };

  const remark = (k) => {
    const unknown = numbers.modes[k].filter((m) => m[0][0] === null).length;
    const defective = numbers.modes[k].filter((m) => m[0][0] !== null && m[0][2] === null).length;
    const kept = numbers.modes[k][0].length, said = [];
    if (defective) said.push(`In ${defective} of ${names.length} states the Jacobian is ` +
      "near-defective: eigenvalues (hollow) are shown, learning rates of modes are not defined.");
    if (unknown) said.push(`In ${unknown} of ${names.length} states the derivative is not finite.`);
    if (kept < numbers.modes_in_all)
      said.push(`Shown are the ${kept} slowest of ${numbers.modes_in_all} modes.`);
    document.getElementById("modes-note").textContent = said.join(" ");
    const zeros = numbers.total_zeros[k];
    document.getElementById("density-note").textContent = zeros === 0 ? "" :
      `${show(100 * zeros / numbers.dim, 3)} % of the gradients are exactly 0 and in no bar.`;
  };

  const fillTable = (k) => {
    const body = document.querySelector("#values tbody");
    const heads = [...document.querySelectorAll("#values thead th")].map((th) => th.textContent);
    body.replaceChildren(...names.map((name, p) => {
      const row = document.createElement("tr");
      const [re, im] = numbers.modes[k][p][0];
      const cells = [name, show(numbers.gradients[k][p]), show(numbers.met_updates[k][p]),
        show(numbers.rates[k][p]), re === null ? "not finite" : complex(re, im),
        re === null ? "" : timescale(Math.hypot(re, im))];
      cells.forEach((text, i) => {
        const cell = document.createElement(i === 0 ? "th" : "td");
        if (i === 0) cell.scope = "row"; else cell.className = "number";
        cell.dataset.label = heads[i];
        cell.textContent = text;
        row.append(cell);
      });
      row.classList.toggle("faint", picked.length > 0 && !picked.includes(name));
      return row;
    }));
  };

  const toggle = (members) => {
    const same = members.length === picked.length && members.every((m) => picked.includes(m));
    picked = same ? [] : members;
    draw();
  };
  const goTo = (step) => {
    const away = numbers.steps.map((own) => Math.abs(own - step));
    moment = away.indexOf(Math.min(...away));
    draw();
  };

  const chip = (label, members, p) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.members = JSON.stringify(members);
    if (p !== undefined) {
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.borderTopColor = numbers.colors[p];
      swatch.style.borderTopStyle = ["solid", "dashed", "dotted"][
        numbers.dashes[p][1] === 0 ? 0 : numbers.dashes[p][0] > 3 ? 1 : 2];
      button.append(swatch);
    }
    button.append(label);
    button.addEventListener("click", () => toggle(members));
    document.getElementById("chips").append(button);
  };
  if (names.length > numbers.group_names.length && numbers.group_names.length > 1)
    numbers.group_names.forEach((group, g) =>
      chip(`all of ${group}`, names.filter((_, p) => numbers.groups[p] === g)));
  names.forEach((name, p) => chip(name, [name], p));

  for (const [name, view] of Object.entries(views)) {
    view.addEventListener("click", (event, item) => {
      const chosen = item?.datum?.parameter;
      if (chosen !== undefined) return toggle([chosen]);
      if (name !== "loss" && name !== "rates") return undefined;
      const left = event.clientX - view.container().getBoundingClientRect().left;
      return goTo(view.scale("x").invert(left - view.origin()[0]));
    });
  }
  const press = (buttons, chosen) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
    draw();
  };
  const ranges = document.querySelectorAll("[data-range]");
  const planes = document.querySelectorAll("[data-plane]");
  for (const button of ranges) button.addEventListener("click", () => {
    wholeRun = button.dataset.range === "run";
    press(ranges, button);
  });
  for (const button of planes) button.addEventListener("click", () => {
    nearOne = button.dataset.plane === "near";
    press(planes, button);
  });

  slider.addEventListener("input", () => { moment = Number(slider.value); draw(); });
  const play = document.getElementById("play");
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  };
  play.addEventListener("click", () => {
    if (timer !== null) return stop();
    if (moment === numbers.steps.length - 1) moment = -1;
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(() => {
      moment += 1;
      draw();
      if (moment === numbers.steps.length - 1) stop();
    }, 250);
    return undefined;
  });

  draw();
  document.body.dataset.ready = "true";
})();
