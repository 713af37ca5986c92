// The table of classes: sorted by any column, filtered by a text.

const lostIn = new Map((metrics.classes_that_need_time?.classes ?? []).map((row) => [row.class, row]));
const mistakes = new Map(); // class -> [called, videos], the most frequent mistake
for (const [label, called, videos] of multi ? [] : data.confusions[headline])
  if (label !== called && videos > (mistakes.get(label)?.[1] ?? 0)) mistakes.set(label, [called, videos]);

// [title, the value to sort by (null last), the content of the cell, text or figures]
const number = (title, value, digits = 1) => [title, value, (index) => fixed(value(index), digits), "figure"];
const COLUMNS = [
  ["Class", (index) => classes[index].toLowerCase(), (index) => classes[index], "text"],
  number(multi ? "Videos that show it" : "Videos", (index) => rows[headline][index].videos, 0),
  [
    `${multi ? "AP" : "Top-1"} %${onlyForward ? "" : `, ${headline}`}`,
    (index) => accuracy(headline, index),
    barCell,
    "figure",
  ],
  ...(multi ? [] : [["Most often mistaken for", (index) => mistakeShare(index) || null, mistakeCell, "text"]]),
  ...(lostIn.size
    ? [
        number(`${several ? "shuffled, mean" : "shuffled"}`, (index) => lostIn.get(classes[index])?.shuffled ?? null),
        [
          "Change",
          (index) => lostIn.get(classes[index])?.change ?? null,
          (index) => (lostIn.has(classes[index]) ? signed(lostIn.get(classes[index]).change) : "–"),
          "figure",
        ],
      ]
    : []),
  ...orders
    .filter((order) => order !== headline && !(lostIn.size && family(order) === "shuffle"))
    .map((order) => number(order, (index) => accuracy(order, index))),
];
const WORST = 2; // the column of the accuracy

const mistakeShare = (index) => (mistakes.has(index) ? mistakes.get(index)[1] / rows[headline][index].videos : 0);

function barCell(index) {
  const value = accuracy(headline, index);
  if (value == null) return "–";
  return element(
    "span",
    { class: "measure" },
    element("i", { style: `width: ${value}%` }),
    element("span", {}, fixed(value)),
  );
}

function mistakeCell(index) {
  if (!mistakes.has(index)) return "–";
  const [called] = mistakes.get(index);
  const button = element(
    "button",
    { type: "button", class: "link", title: "Show in the confusion map" },
    `${classes[called]} (${percent(mistakeShare(index))})`,
  );
  button.addEventListener("click", () => {
    showPair(index, called);
    byId("confusion-all").focus();
  });
  return button;
}

function fillClasses() {
  const lines = classes.map((_, index) => {
    const cells = COLUMNS.map(([, , content, kind], column) =>
      element(column ? "td" : "th", { ...(column ? {} : { scope: "row" }), class: kind }, content(index)),
    );
    return { index, text: classes[index].toLowerCase(), row: element("tr", {}, ...cells) };
  });
  const body = element("tbody");
  const heads = COLUMNS.map(([title, , , kind], column) => {
    const button = element("button", { type: "button" }, title);
    button.addEventListener("click", () => sortBy(column));
    return element("th", { scope: "col", class: kind }, button);
  });
  let sorted = { column: null, sign: 1 };

  function sortBy(column, sign = null) {
    const first = COLUMNS[column][3] === "text" && !column ? 1 : -1; // names from A, numbers from the greatest
    sorted = { column, sign: sign ?? (sorted.column === column ? -sorted.sign : first) };
    const value = COLUMNS[column][1],
      keys = new Map(lines.map(({ index }) => [index, value(index)]));
    const compare = (a, b) => {
      const [one, two] = [keys.get(a.index), keys.get(b.index)];
      if (one === null || two === null) return (one === null) - (two === null) || a.index - b.index;
      return sorted.sign * (one < two ? -1 : one > two ? 1 : 0) || a.index - b.index;
    };
    body.append(...lines.sort(compare).map(({ row }) => row));
    heads.forEach((head, place) =>
      place === column
        ? head.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending")
        : head.removeAttribute("aria-sort"),
    );
    byId("worst").setAttribute("aria-pressed", column === WORST && sorted.sign > 0);
  }

  function filter() {
    const wanted = byId("class-filter").value.trim().toLowerCase();
    for (const { text, row } of lines) row.hidden = !text.includes(wanted);
    const shown = lines.filter(({ row }) => !row.hidden).length;
    byId("class-count").textContent = wanted ? `${shown} of ${classes.length} classes` : count(classes.length, "class");
  }

  byId("class-table").append(
    element("table", { class: "sortable" }, element("thead", {}, element("tr", {}, ...heads)), body),
  );
  byId("worst").addEventListener("click", () => sortBy(WORST, 1));
  byId("class-filter").addEventListener("input", filter);
  const empty = classes.filter((_, index) => !rows[headline][index].videos).length;
  if (empty)
    byId("class-note").textContent =
      `${empty} of ${classes.length} classes are shown by no video; ` +
      `${multi ? "the mean is over the others" : "they have no accuracy"}.`;
  sortBy(WORST, 1);
  filter();
}
