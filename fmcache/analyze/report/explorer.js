"use strict";
// Counts at each stop of the slider were worked out beforehand (explorer.py); here they are looked up and divided.
{
  const PLOT = 304, HEIGHT = 292, STRIP = 330; // pixels from 0 to 1: width and height of the curves, width of the strip
  const three = new Intl.NumberFormat("en", { minimumFractionDigits: 3, maximumFractionDigits: 3, roundingMode: "halfEven" });
  const told = (value) => (Number.isFinite(value) ? three.format(value).replace("-", "−") : "–");
  const spread = (values) => (values.length > 1 ? Math.max(...values) - Math.min(...values) : NaN);

  for (const root of document.querySelectorAll("[data-explorer]")) {
    const data = JSON.parse(root.querySelector("script").textContent);
    const slider = root.querySelector("input");
    const rows = [...root.querySelectorAll("tbody tr")];
    const slots = rows.map((row) => row.dataset.slot);
    const moving = [...root.closest(".attribute").querySelectorAll("[data-axes]")];

    const rates = (group, stop) => {
      const tp = group.tp[stop], fp = group.fp[stop], threshold = data.thresholds[stop];
      return {
        threshold,
        net: threshold < 1 ? (tp - (fp * threshold) / (1 - threshold)) / (group.positives + group.negatives) : NaN,
        flagged: (tp + fp) / (group.positives + group.negatives),
        tpr: tp / group.positives,
        fpr: fp / group.negatives,
        ppv: tp + fp ? tp / (tp + fp) : NaN,
      };
    };
    const first = data.groups.map((group) => rates(group, data.start));

    const show = () => {
      const stop = Number(slider.value);
      const threshold = String(Number(data.thresholds[stop].toPrecision(4)));
      const now = data.groups.map((group) => rates(group, stop));
      now.forEach((rate, i) => {
        for (const cell of rows[i].querySelectorAll("[data-rate]")) cell.textContent = told(rate[cell.dataset.rate]);
      });
      const known = now.filter((_, i) => data.groups[i].known);
      const tpr = told(spread(known.map((rate) => rate.tpr)));
      const fpr = told(spread(known.map((rate) => rate.fpr)));
      root.querySelector("[data-spread=tpr]").textContent = tpr;
      root.querySelector("[data-spread=fpr]").textContent = fpr;
      root.querySelector("[data-threshold]").textContent = threshold;
      slider.setAttribute("aria-valuetext", `threshold ${threshold}`);
      root.querySelector("[role=status]").textContent =
        `At threshold ${threshold}, sensitivity differs by ${tpr} and the share of false alarms by ${fpr}.`;
      for (const mark of moving) {
        const i = slots.indexOf(mark.dataset.slot);
        if (i < 0) continue;
        const [along, up] = mark.dataset.axes.split(" ");
        const width = Number(mark.dataset.wide) || (up ? PLOT : STRIP);
        const tall = Number(mark.dataset.tall) || HEIGHT;
        const dx = width * (now[i][along] - first[i][along]);
        const dy = up ? -tall * (now[i][up] - first[i][up]) : 0;
        const below = up && now[i][up] < Number(mark.dataset.least ?? -Infinity);
        mark.setAttribute("visibility", Number.isFinite(dx + dy) && !below ? "visible" : "hidden");
        if (Number.isFinite(dx + dy)) mark.setAttribute("transform", `translate(${dx.toFixed(1)} ${dy.toFixed(1)})`);
      }
    };
    slider.addEventListener("input", show);
    root.querySelector("button").addEventListener("click", () => {
      slider.value = String(data.start);
      show();
      slider.focus();
    });
    root.querySelector(".controls").hidden = false;
    root.querySelector(".without-script").hidden = true;
  }
}
