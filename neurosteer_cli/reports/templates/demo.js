const at = (id) => document.getElementById(id);
const offered = JSON.parse(at("data").textContent);
const MOST = 30; // the slider's ends
const SHARES = [0, 0.25, 0.5, 0.75, 1]; // of a component that is taken away
const ACTS = { add: "added", ablate: "taken away", clamp: "held at a level" };
let model = "", vectors = [], view = "sides", running = null, touched = offered.first;

const signed = (number) => (number > 0 ? "+" : number < 0 ? "−" : "") + Math.abs(number);
const kindOf = (alpha) => (alpha > 0 ? "up" : alpha < 0 ? "down" : "");
const told = (steering) => Object.entries(steering).map(([name, alpha]) => `${name} ${signed(alpha)}`).join(", ");

/** What the server answers; an error carries its words. */
async function ask(path, body, options = {}) {
  const answer = await fetch(path, body === undefined ? options : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), ...options,
  });
  if (answer.ok) return answer;
  const refusal = await answer.json().catch(() => null);
  throw new Error(refusal?.error?.message ?? `the server answered ${answer.status}`);
}

// --- vectors and their alphas

/** Cards of all vectors, at the alphas given, else where they stand; the first time one is turned up. */
async function loadVectors(alphasGiven = null) {
  const listed = await (await ask("/v1/vectors")).json();
  const isFirst = !vectors.length, before = alphasGiven ?? alphas();
  model = listed.model;
  vectors = listed.data;
  at("model").textContent = `· ${model}`;
  at("fit").hidden = !listed.can_fit;
  const turnedUp = vectors.find((one) => one.id === touched) ?? vectors[0];
  if (isFirst && turnedUp && !alphasGiven) before[turnedUp.id] = turnedUp.suggested_alpha;
  touched = turnedUp?.id;
  at("vectors").replaceChildren(...vectors.map((one) => card(one, before[one.id] ?? 0)));
  if (!vectors.length) at("vectors").append(element("p", { className: "soft", textContent: "None yet: make one below." }));
  await showDose();
}

/** A slider's ends, its steps, and as far as what it turns is usually safe, by what alpha is for a vector's kind. */
function scale(one) {
  if (one.kind === "ablate") return { low: 0, high: 1, step: 0.05, safe: [0, 1] };
  const most = Math.max(MOST, Math.ceil(Math.abs(one.suggested_alpha)));
  const safe = one.dose_per_alpha === null ? most : Math.min(most, Math.round(offered.safe_dose / one.dose_per_alpha));
  return { low: -most, high: most, step: 0.5, safe: [-safe, safe] };
}

/** What an alpha is, for who does not see the slider. */
function meaning(one, alpha) {
  if (!alpha) return "0, off";
  if (one.kind === "ablate") return `${Math.round(100 * alpha)} % taken away`;
  return `${signed(alpha)}, towards ${(alpha > 0 ? one.towards : one.away) ?? "one side"}`;
}

function card(one, alpha) {
  const id = `alpha-${one.id}`;
  const { low, high, step, safe } = scale(one);
  const slider = element("input", { type: "range", id, min: low, max: high, step, value: alpha, dataset: { vector: one.id } });
  const value = element("output", { htmlFor: id });
  const place = (number) => `calc(${(number - low) / (high - low)} * (100% - 1.125rem) + 0.5625rem)`;
  slider.style.setProperty("--low", place(safe[0]));
  slider.style.setProperty("--high", place(safe[1]));
  const show = () => {
    const now = +slider.value;
    value.textContent = signed(now);
    slider.setAttribute("aria-valuetext", meaning(one, now));
    slider.style.setProperty("--from", place(Math.min(0, now)));
    slider.style.setProperty("--to", place(Math.max(0, now)));
    box.className = `vector ${kindOf(now)}`;
  };
  const set = (number) => {
    slider.value = number;
    slider.dispatchEvent(new Event("input"));
    slider.dispatchEvent(new Event("change"));
  };
  slider.addEventListener("input", () => { touched = one.id; show(); showDose(); });
  slider.addEventListener("change", generateSoon);
  slider.addEventListener("dblclick", () => set(0));
  const marks = [...new Set([safe[0], 0, safe[1]])].map((number) => {
    const furthest = one.dose_per_alpha === null ? "as far as it goes" : "as far as is usually safe";
    const mark = element("button", { type: "button", textContent: signed(number), title: number ? furthest : "set it back to 0" });
    mark.style.left = place(number);
    mark.addEventListener("click", () => set(number));
    return mark;
  });
  const behind = element("button", { type: "button", className: "plain", textContent: "what is behind it" });
  behind.addEventListener("click", () => showLatents(one, behind));
  const usual = one.calibrated?.alpha_up ? `calibrated: ${signed(one.suggested_alpha)} by judge “${one.calibrated.judge}”` : `usual: ${signed(one.suggested_alpha)}`;
  const box = element("div", {},
    element("div", { className: "name" }, element("label", { htmlFor: id }, element("b", { textContent: one.id })), value),
    slider,
    element("div", { className: "marks" }, ...marks),
    element("div", { className: "ends" }, ...ends(one).map((textContent) => element("span", { textContent }))),
    element("p", { className: "from" }, `${usual} · `, behind));
  show();
  return box;
}

/** What lies at the ends of a vector's slider. */
function ends(one) {
  if (one.kind === "ablate") return ["as it is", "taken away →"];
  return [one.away ? `← ${one.away}` : "", one.towards ? `${one.towards} →` : ""];
}

function alphas() {
  const found = {};
  for (const slider of document.querySelectorAll("#vectors input")) if (+slider.value) found[slider.dataset.vector] = +slider.value;
  return found;
}

let doseAsked = 0;
async function showDose() {
  const mine = ++doseAsked;
  let dose;
  try {
    ({ dose } = await (await ask("/v1/dose", { steering: alphas() })).json());
  } catch (error) {
    at("dose").textContent = "?";
    at("advice").textContent = error.message;
    return;
  }
  if (mine !== doseAsked) return; // a slider has moved on
  const safe = offered.safe_dose;
  at("gauge").firstChild.style.width = `${Math.min(100, 50 * dose / safe)}%`;
  at("gauge").classList.toggle("over", dose > safe + 1e-6);
  at("dose").textContent = dose === null ? "–" : `${Math.round(dose * 1000) / 10} %`;
  at("advice").textContent = dose === null ? "Nothing is added to the residual stream, so that there is no length to tell." : dose > safe + 1e-6 ? `Above ${100 * safe} % of the residual's length text begins to suffer.` :
    "Length of the whole push, as a share of the residual stream's.";
}

// --- what is written: a text a column, all of them with the same dice

/** The settings that a view writes with; `is_plain` is the one that the others are held against. */
function columns() {
  const now = alphas(), plain = { title: "Unsteered", steering: {}, kind: "", is_plain: true };
  const steered = (steering, kind) => ({ title: told(steering) || "all alphas 0", steering, kind });
  const main = now[touched] ?? Object.values(now)[0] ?? 0;
  if (view === "ends") {
    const turned = Object.fromEntries(Object.entries(now).map(([name, alpha]) => [name, -alpha]));
    const ends = [steered(turned, kindOf(-main)), plain, steered(now, kindOf(main))];
    return main < 0 ? ends.reverse() : ends;
  }
  if (view === "ladder" && touched) {
    const isShare = vectors.find((one) => one.id === touched).kind === "ablate";
    return [...(isShare ? SHARES : offered.ladder)].reverse().map((alpha) => {
      const steering = { ...now, [touched]: alpha };
      if (!alpha) delete steering[touched];
      return { title: signed(alpha), note: touched, steering, kind: kindOf(alpha), is_plain: !alpha };
    });
  }
  return [plain, steered(now, kindOf(main))];
}

function sentence(shown, asked) {
  const now = told(alphas()), dice = `with the same dice (seed ${asked.seed})`;
  const acting = vectors.every((one) => one.kind === "add" || !alphas()[one.id]) ? "added" : "at work";
  if (view === "ladder" && touched) return `The model writes the same prompt ${shown.length} times ${dice}, ${touched} from one end to the other. Words that the text at 0 does not have are marked.`;
  if (!now) return "All sliders stand at 0, so that the texts are the same: move one, or take the ladder.";
  if (view === "ends") return `The model writes the same prompt three times ${dice}: as it is, and with ${now} and its opposite ${acting} while it writes. Words that the text in the middle does not have are marked.`;
  return `The model writes the same prompt twice ${dice}: as it is, and with ${now} ${acting === "added" ? "added to it" : acting} while it writes. Words in which they differ are marked.`;
}

/** Writes one text into its card; true when it was finished. */
async function write(card, column, asked, signal) {
  const place = card.querySelector(".said"), text = document.createTextNode("");
  place.replaceChildren(...(asked.chat ? [] : [element("span", { className: "prompt", textContent: asked.prompt })]), text);
  const body = { model, steering: column.steering, stream: true, max_tokens: asked.tokens, temperature: asked.temperature, seed: asked.seed, top_p: 0.9 };
  if (asked.chat) body.messages = [{ role: "user", content: asked.prompt }];
  else body.prompt = asked.prompt;
  try {
    const answer = await ask(asked.chat ? "/v1/chat/completions" : "/v1/completions", body, { signal });
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      text.data += (asked.chat ? choice.delta.content : choice.text) ?? "";
    }
    return true;
  } catch (error) {
    if (error.name !== "AbortError") place.append(element("p", { className: "error", textContent: error.message }));
    return false;
  } finally {
    card.classList.remove("running");
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server ended the text early");
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue; // a comment, that the connection may live
      if (part === "data: [DONE]") return;
      yield JSON.parse(part.slice(6));
    }
  }
}

async function generate() {
  clearTimeout(soon);
  restoreDefaults();
  if (!at("ask").checkValidity()) at("settings").open = true;
  if (!at("ask").reportValidity()) return;
  running?.abort();
  const mine = running = new AbortController();
  const asked = { prompt: at("prompt").value, tokens: +at("tokens").value, temperature: +at("temperature").value, seed: +at("seed").value,
    chat: at("chat").checked };
  const shown = columns();
  at("stop").disabled = false;
  at("what").textContent = sentence(shown, asked);
  at("texts").className = `texts ${view}`;
  const cards = shown.map(textCard);
  at("texts").replaceChildren(...cards);
  const done = await Promise.all(shown.map((column, n) => write(cards[n], column, asked, mine.signal)));
  if (running !== mine) return; // others are being written
  at("stop").disabled = true;
  running = null;
  markDifferences(cards, shown);
  if (done.every(Boolean)) await score(cards, asked);
}

/** Write, and have it seen: on a phone texts and buttons may be screens apart. */
function generateInView() {
  generate();
  const { top } = at("texts").getBoundingClientRect();
  if (top < 0 || top > innerHeight - 150) at("what").scrollIntoView({ behavior: "smooth", block: "start" });
}

let soon = 0;
function generateSoon() {
  clearTimeout(soon);
  soon = setTimeout(generate, 350); // keys move a slider by many small steps
}

function textCard(column) {
  const title = element("h3", { textContent: column.title });
  if (column.note) title.append(element("small", { textContent: column.note }));
  return element("article", { className: `written-text running ${column.kind}` }, title,
    element("div", { className: "said", role: "log", dir: "auto" }), element("p", { className: "scores" }));
}

const written = (card) => [...card.querySelector(".said").childNodes].filter((node) => node.nodeType === Node.TEXT_NODE || node.tagName === "MARK")
  .map((node) => node.textContent).join("");

// --- where texts differ

/** Mark in each text the words that the unsteered one does not have, and in that one those that a single other does not. */
function markDifferences(cards, shown) {
  const plain = shown.findIndex((column) => column.is_plain), texts = cards.map(written);
  shown.forEach((column, n) => {
    const other = column.is_plain ? (shown.length === 2 ? texts[1 - n] : texts[n]) : texts[plain];
    const place = cards[n].querySelector(".said"), rest = [...place.childNodes].find((node) => node.nodeType === Node.TEXT_NODE);
    rest.replaceWith(...marked(texts[n], other));
  });
}

/** A text in pieces: what stands in the other in the same order too, and, marked, what does not. */
function marked(text, other) {
  const mine = text.match(/\s+|\S+/g) ?? [], theirs = other.match(/\S+/g) ?? [];
  const common = inCommon(mine.filter((part) => part.trim()), theirs);
  const pieces = [];
  let word = 0;
  for (const part of mine) {
    const isSpace = !part.trim();
    const differs = isSpace ? null : !common.has(word++);
    pieces.push({ part, differs });
  }
  pieces.forEach((piece, n) => { // a space is marked between two marked words
    if (piece.differs === null) piece.differs = Boolean(pieces[n - 1]?.differs && pieces[n + 1]?.differs);
  });
  const runs = [];
  for (const { part, differs } of pieces) {
    if (runs.length && runs.at(-1).differs === differs) runs.at(-1).text += part;
    else runs.push({ text: part, differs });
  }
  return runs.map((run) => (run.differs ? element("mark", { textContent: run.text }) : document.createTextNode(run.text)));
}

/** The places in `mine` of a longest common subsequence with `theirs`. */
function inCommon(mine, theirs) {
  const lengths = Array.from({ length: mine.length + 1 }, () => new Uint16Array(theirs.length + 1));
  for (let i = mine.length - 1; i >= 0; i--) {
    for (let j = theirs.length - 1; j >= 0; j--) {
      lengths[i][j] = mine[i] === theirs[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const found = new Set();
  for (let i = 0, j = 0; i < mine.length && j < theirs.length;) {
    if (mine[i] === theirs[j]) { found.add(i++); j++; }
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return found;
}

// --- what is thought of them

async function score(cards, asked) {
  const texts = cards.map(written);
  let found;
  try {
    found = await (await ask("/v1/score", { prompt: asked.prompt, chat: asked.chat, texts })).json();
  } catch (error) {
    cards[0].querySelector(".scores").textContent = `no scores: ${error.message}`;
    return;
  }
  cards.forEach((card, n) => {
    if (written(card) !== texts[n]) return; // it has been written anew
    const judged = offered.judges.map((judge) => judgement(judge, found.judges[judge.name][n]));
    const perplexity = found.perplexities[n];
    const told = perplexity === null ? [] : [element("span", { textContent: `perplexity ${perplexity.toFixed(1)}`,
      title: "of the text under the unsteered model: the lower, the more it expected it" })];
    card.querySelector(".scores").replaceChildren(...judged, ...told);
  });
}

function judgement(judge, score) {
  if (score === null) return element("span", { textContent: `${judge.name}: no answer` });
  return element("span", { title: judge.limits }, `${judge.name} `, bar(score, ...judge.range), (judge.range[0] < 0 && score > 0 ? "+" : "") + fixed(score));
}

/** A number between the ends of its scale; of one that goes below zero, from a zero in the middle. */
function bar(number, low, high) {
  const span = high - low, zero = 100 * -low / span, width = 100 * Math.abs(number) / span;
  const left = number < 0 ? zero - width : zero;
  return element("span", { className: low < 0 ? "bar signed" : "bar" },
    element("span", { className: number < 0 ? "below" : "", style: `left: ${left.toFixed(1)}%; width: ${width.toFixed(1)}%` }));
}

// --- what is behind a vector

async function showLatents(one, from) {
  at("latents").hidden = false;
  at("latents-title").textContent = `Behind “${one.id}”`;
  at("latents-list").replaceChildren();
  at("latents-close").onclick = () => { at("latents").hidden = true; from.focus(); };
  try {
    const { latents } = await (await ask(`/v1/vectors/${encodeURIComponent(one.id)}`)).json();
    at("latents-said").textContent = origin(one, latents);
    const most = Math.max(...latents.map((latent) => latent.share));
    at("latents-list").replaceChildren(...latents.map((latent) => latentRow(latent, one, most)));
  } catch (error) {
    at("latents-said").textContent = error.message;
  }
  at("latents").scrollIntoView({ behavior: "smooth", block: "nearest" });
  at("latents-title").focus({ preventScroll: true });
}

const blockOf = (hookPoint) => hookPoint.split(".")[1];

function origin(one, latents) {
  const blocks = one.hook_points.map(blockOf), last = blocks.pop();
  const after = blocks.length ? `blocks ${blocks.join(", ")} and ${last}` : `block ${last}`;
  const parts = [last ? `It is ${ACTS[one.kind]} after ${after}` : "It acts on the logits of tokens"];
  if (one.n_texts) parts.push(`made from ${one.n_texts} texts`);
  if (one.auroc !== null) parts.push(`tells the two sides apart with AUROC ${one.auroc.toFixed(2)} on texts held out`);
  const what = latents.length ? `Its ${latents.length} strongest latents, with their shares of all weight after their block: to the right those turned up, to the left those turned down; and where each fires most.` :
    `Its method, ${one.method}, uses no latents.`;
  return `${parts.join("; ")}. ${what}`;
}

function latentRow(latent, one, most) {
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const sign = latent.weight < 0 ? -1 : 1;
  const weight = element("span", { className: "weight", title: `weight ${fixed(latent.weight, 3)}: its share of all weights after its block` },
    `${sign < 0 ? "−" : "+"}${percent(latent.share)}`, bar(sign * latent.share / most, -1, 1));
  const tokens = latent.tokens.length ? latent.tokens.map(visible).join(", ") : latent.name ?? "not described";
  const where = `block ${blockOf(latent.hook_point)}, latent ${latent.latent_id}; fires at ${percent(latent.fires_towards)} of tokens ` +
    `${one.towards ?? "towards"}, ${percent(latent.fires_away)} ${one.away ?? "away"}`;
  return element("li", {}, weight, element("span", { className: "tokens-of", textContent: tokens, title: latent.name ?? "" }),
    latent.context ? contextLine([...latent.context, 1], 1, { tag: "span", value: false }) : element("span", { className: "context" }),
    element("span", { className: "where", textContent: where }));
}

// --- the form

/** An emptied field means its default, and says so. */
function restoreDefaults() {
  for (const id of ["tokens", "temperature", "seed"]) if (at(id).value === "" && !at(id).validity.badInput) at(id).value = at(id).defaultValue;
  at("settings-said").textContent = `${at("tokens").value} tokens, temperature ${at("temperature").value}, seed ${at("seed").value}${at("chat").checked ? ", as a chat" : ""}`;
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); generateInView(); });
at("ask").addEventListener("change", restoreDefaults);
at("stop").addEventListener("click", () => running?.abort());
at("again").addEventListener("click", () => { at("seed").value = +at("seed").value + 1; generateInView(); });
at("prompt").addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); generateInView(); } });
for (const one of document.querySelectorAll(".try")) one.addEventListener("click", () => { at("prompt").value = one.textContent; generateInView(); });
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => {
    view = button.dataset.view;
    for (const other of document.querySelectorAll("[data-view]")) other.setAttribute("aria-pressed", other === button);
    generate();
  });
}

restoreDefaults();
loadVectors().then(generate, (error) => at("what").replaceChildren(element("span", { className: "error", textContent: error.message })));
