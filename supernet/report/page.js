"use strict";
(() => {
  const { figures, details } = JSON.parse(document.getElementById("data").textContent);
  const config = { displayModeBar: false, responsive: true, showTips: false };
  const charts = [...document.querySelectorAll(".chart")].filter((div) => figures[div.dataset.figure]);
  const all = (query, inside = document) => [...inside.querySelectorAll(query)];

  // ---- the network that was clicked -----------------------------------------------------------
  const box = document.getElementById("detail");
  function show(key) {
    const found = details[key];
    if (!found || !box) return;
    box.hidden = false;
    box.querySelector("h3").textContent = found.title;
    box.querySelector(".lines").textContent = found.lines + (found.path ? ", in " + found.path : "");
    box.querySelector(".arch").textContent = found.arch;
    box.querySelector(".command").hidden = !found.command;
    box.querySelector("code").textContent = found.command || "";
    all("tr.picked").forEach((row) => row.classList.remove("picked"));
    all("tr[data-key]").filter((row) => row.dataset.key === key)
      .forEach((row) => row.classList.add("picked"));
  }

  for (const div of charts) {
    const { data, layout } = figures[div.dataset.figure];
    div.style.height = `${layout.height}px`;  // plotly forgets its own where it is resized
    Plotly.newPlot(div, data, layout, config);
    div.on("plotly_click", (event) => show(event.points[0].customdata));
  }
  for (const row of all("tr[data-key]")) {
    row.addEventListener("click", () => show(row.dataset.key));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row.dataset.key); });
  }

  // ---- filter by device -----------------------------------------------------------------------
  const boxes = all(".filter input");
  function filter() {
    const off = new Set(boxes.filter((one) => !one.checked).map((one) => one.value));
    all("[data-device]").forEach((one) => { one.hidden = off.has(one.dataset.device); });
    for (const div of charts) {
      const visible = div.data.map((trace) => !(trace.meta && off.has(trace.meta.device)));
      if (div.data.some((trace) => trace.meta)) Plotly.restyle(div, { visible });
      if (div.offsetParent) Plotly.Plots.resize(div);  // one that was hidden has no width yet
    }
  }
  boxes.forEach((one) => one.addEventListener("change", filter));

  // ---- sorting --------------------------------------------------------------------------------
  const isNumber = (text) => text !== "" && !Number.isNaN(Number(text));
  function compare(a, b) {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1;
    return isNumber(a) && isNumber(b) ? a - b : a.localeCompare(b);
  }
  for (const table of all("table.sortable")) {
    const heads = all("th", table.tHead);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const order = compare(value(a), value(b));
        return down && value(a) !== "" && value(b) !== "" ? -order : order;
      });
      table.tBodies[0].append(...rows);
    }));
  }

  // ---- copying --------------------------------------------------------------------------------
  async function copy(button) {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {  // no permission, or an old browser
      const range = document.createRange();
      range.selectNodeContents(code);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }
  all(".copy").forEach((button) => button.addEventListener("click", () => copy(button)));

  // ---- printing: plots have a width of their own ----------------------------------------------
  const onPaper = (div) => Math.min(div.clientWidth || 640, div.closest(".card") ? 300 : 640);
  addEventListener("beforeprint", () =>
    charts.forEach((div) => Plotly.relayout(div, { width: onPaper(div) })));
  addEventListener("afterprint", () =>
    charts.forEach((div) => Plotly.relayout(div, { width: null, autosize: true })));
})();
