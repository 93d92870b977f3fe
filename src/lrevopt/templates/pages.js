"use strict";
// What pages of results share: tables that sort, tables whose rows become cards where the window
// is narrow, and figures that open large. Without it a page shows the same, in its own order.
(() => {
  const cellAt = (row, column) => {
    let place = 0;
    for (const cell of row.cells) {
      place += cell.colSpan;
      if (column < place) return cell;
    }
    return undefined;
  };
  const textOf = (cell) => (cell?.dataset.sort ?? cell?.textContent ?? "").trim();
  const numberOf = (text) => {
    const plain = text.replace(/\u2212/g, "-").replace(/,(?=\d{3})/g, "");
    const found = /^[<>~]?\s*([+-]?)(\u221e|inf\b|\d+\.?\d*(?:e[+-]?\d+)?)/i.exec(plain);
    if (!found) return NaN;
    const size = /^\d/.test(found[2]) ? Number(found[2]) : Infinity;
    return found[1] === "-" ? -size : size;
  };

  const compareBy = (column, rows) => {
    const texts = new Map(rows.map((row) => [row, textOf(cellAt(row, column))]));
    const told = [...texts.values()].filter((text) => text !== "" && text !== "\u2013");
    const numeric = told.length > 0 && told.every((text) => !Number.isNaN(numberOf(text)));
    const missing = (row) => ["", "\u2013"].includes(texts.get(row));
    return (sign) => (one, other) => {
      if (missing(one) || missing(other)) return missing(one) - missing(other);
      const [a, b] = [texts.get(one), texts.get(other)];
      if (!numeric) return sign * a.localeCompare(b, "en", { numeric: true });
      // Infinities are equal, whatever their difference.
      return numberOf(a) === numberOf(b) ? 0 : sign * (numberOf(a) - numberOf(b));
    };
  };

  const makeSortable = (table, heads) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const buttons = heads.map((head) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      return button;
    });
    const select = document.createElement("select");
    const label = document.createElement("label");
    label.className = "sorter";
    label.append("Sort by ", select);
    select.add(new Option("the order of the page", ""));
    heads.forEach((head, i) => {
      select.add(new Option(`${head.textContent}, ascending`, `${i} ascending`));
      select.add(new Option(`${head.textContent}, descending`, `${i} descending`));
    });
    (table.closest(".scroll") ?? table).before(label);

    const sort = (column, order) => {
      heads.forEach((head, i) => {
        if (i === column) head.setAttribute("aria-sort", order); else head.removeAttribute("aria-sort");
      });
      select.value = column === null ? "" : `${column} ${order}`;
      const rows = [...original];
      if (column !== null)
        rows.sort(compareBy(column, original)(order === "ascending" ? 1 : -1));
      body.append(...rows);
    };
    buttons.forEach((button, i) => button.addEventListener("click", () => {
      const before = heads[i].getAttribute("aria-sort");
      if (before === null) sort(i, "ascending");
      else if (before === "ascending") sort(i, "descending");
      else sort(null);
    }));
    select.addEventListener("change", () => {
      const [column, order] = select.value.split(" ");
      if (order) sort(Number(column), order); else sort(null);
    });
  };

  for (const table of document.querySelectorAll("table")) {
    const heads = [...(table.tHead?.rows[0]?.cells ?? [])];
    if (heads.length === 0 || table.tHead.rows.length > 1) continue;
    for (const row of table.tBodies[0].rows)
      heads.forEach((head, i) => {
        const cell = cellAt(row, i);
        if (cell && cell.colSpan === 1) cell.dataset.label = head.textContent.trim();
      });
    table.classList.add("cards");
    if (table.tBodies[0].rows.length > 1) makeSortable(table, heads);
  }

  // Figures: a button, and a click on the picture, open it in a dialog.
  const dialog = document.createElement("dialog");
  dialog.className = "large";
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  const picture = document.createElement("img");
  const caption = document.createElement("p");
  const room = document.createElement("div");
  room.className = "room";
  room.tabIndex = 0;
  room.append(picture);
  dialog.append(close, room, caption);
  close.addEventListener("click", () => dialog.close());
  picture.addEventListener("click", () => picture.classList.toggle("whole"));
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);

  for (const figure of document.querySelectorAll("figure")) {
    const image = figure.querySelector("img");
    if (!image) continue;
    const name = figure.querySelector(".scroll")?.getAttribute("aria-label") ?? "figure";
    const open = () => {
      picture.src = image.src;
      picture.alt = image.alt;
      picture.classList.remove("whole");
      caption.textContent = image.alt;
      dialog.setAttribute("aria-label", name);
      dialog.showModal();
      room.scrollTo(0, 0);
    };
    const button = document.createElement("button");
    button.type = "button";
    button.className = "enlarge";
    button.textContent = "Enlarge";
    button.setAttribute("aria-label", `Enlarge ${name}`);
    button.addEventListener("click", open);
    image.addEventListener("click", open);
    figure.querySelector("figcaption").before(button);
  }
})();
