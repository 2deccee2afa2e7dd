const all = JSON.parse(document.getElementById("data").textContent);
const query = document.getElementById("query"), order = document.getElementById("order");
const list = document.getElementById("list"), more = document.getElementById("more");
const AT_ONCE = 200;
let shown = AT_ONCE;

const peak = (latent) => latent.at.length ? latent.at[0][3] : 0;
const percent = (share) => `${fixed(100 * share)} %`;

/** How often it fires how strongly: a bar for each half octave of activation, the strongest last. */
function histogram(counts, strongest) {
  const most = Math.log1p(Math.max(...counts, 1));
  const bars = counts.map((count) => element("i", { style: `height: ${count ? Math.max(8, 100 * Math.log1p(count) / most) : 0}%` }));
  const told = `tokens by activation, in half octaves up to ${fixed(strongest)}: ${counts.join(", ")}`;
  return element("span", { className: "histogram", role: "img", "aria-label": told, title: told }, ...bars);
}

function tokens(label, words, kind) {
  const chips = words.map((word) => element("code", { className: `chip ${kind}`, textContent: visible(word).replace(/ /g, "·") }));
  return element("p", { className: "tokens" }, element("span", { className: "soft", textContent: `${label} ` }), ...chips);
}

function card(latent) {
  const strongest = peak(latent), [first, ...others] = latent.at;
  const summary = element("summary", {},
    element("b", { className: "number", textContent: latent.id }),
    histogram(latent.strengths, strongest),
    element("span", { className: "rate soft", textContent: percent(latent.rate) }),
    first ? contextLine(first, strongest, { tag: "span" }) : element("span", { className: "context soft", textContent: "never fired" }));
  return element("details", { className: "latent", id: `latent-${latent.id}` }, summary,
    element("div", { className: "inside" },
      element("ul", { className: "contexts" }, ...others.map((context) => contextLine(context, strongest))),
      tokens("promotes", latent.up, "up"), tokens("suppresses", latent.down, "down")));
}

function show() {
  const wanted = query.value.trim().toLowerCase();
  const found = all.filter((latent) => !wanted || (/^[0-9/]+$/.test(wanted) ? latent.id === wanted || latent.id.endsWith(`/${wanted}`)
    : latent.text.includes(wanted)));
  const key = { id: () => 0, rate: (latent) => -latent.rate, peak: (latent) => -peak(latent) }[order.value];
  found.sort((a, b) => key(a) - key(b));
  document.getElementById("count").textContent =
    `${found.length} latent${found.length === 1 ? "" : "s"}${found.length > shown ? `, the first ${shown} shown` : ""}`;
  list.replaceChildren(...found.slice(0, shown).map(card));
  more.hidden = found.length <= shown;
  if (found.length === 1) list.firstChild.open = true;
}

/** What the address points to, `#latent-12`: found, opened and brought into view. */
function follow() {
  const id = decodeURIComponent(location.hash).replace(/^#latent-/, "");
  if (!all.some((latent) => latent.id === id)) return;
  query.value = id;
  show();
  list.firstChild.scrollIntoView({ block: "center" });
}

for (const latent of all) latent.text = `${latent.at.map((context) => context.slice(0, 3).join("")).join(" ")} ${latent.up.join(" ")}`.toLowerCase();
query.addEventListener("input", () => { shown = AT_ONCE; show(); });
order.addEventListener("change", show);
more.addEventListener("click", () => { shown += AT_ONCE; show(); });
document.getElementById("open").addEventListener("click", (event) => {
  const opened = event.target.textContent === "open all";
  for (const one of list.children) one.open = opened;
  event.target.textContent = opened ? "close all" : "open all";
});
list.addEventListener("toggle", (event) => { if (event.target.open && event.isTrusted) history.replaceState(null, "", `#${event.target.id}`); }, true);
addEventListener("hashchange", follow);
show();
follow();
