/** The records of the files chosen, by side; without one its box holds the texts. */
const files = {};

const lines = (side) => at(`fit-${side}`).value.split("\n").map((line) => line.trim()).filter(Boolean);
const textsOf = (side) => files[side]?.records ?? lines(side);

function say(kind, ...parts) {
  at("fit-said").className = `small ${kind}`;
  at("fit-said").replaceChildren(...parts);
}

/** Have the server read a file, whatever it keeps its texts in. */
async function takeFile(side, file) {
  say("soft", `reading ${file.name}…`);
  try {
    const url = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
      reader.readAsDataURL(file);
    });
    const { records } = await (await ask("/v1/texts", { name: file.name, content: url.slice(url.indexOf(",") + 1) })).json();
    files[side] = { name: file.name, records };
    say("");
    if (!at("fit-name").value && side === "positive") at("fit-name").value = file.name.replace(/\..*$/, "").replace(/[^A-Za-z0-9_-]+/g, "-").replace(/^[-_]+/, "");
  } catch (error) {
    say("error", error.message);
  }
  showSide(side);
}

/** The box of a side, or in its place the file that was chosen. */
function showSide(side) {
  const box = at(`fit-${side}`), chosen = files[side];
  box.hidden = Boolean(chosen);
  box.parentNode.querySelector(`.file[data-side=${side}]`)?.remove();
  if (!chosen) return;
  const other = element("button", { type: "button", className: "plain", textContent: "take it out" });
  other.addEventListener("click", () => { delete files[side]; showSide(side); box.focus(); });
  box.after(element("div", { className: "file", dataset: { side } }, `${chosen.records.length} texts from ${chosen.name} · `, other));
}

/** Show how many texts have been read, for as long as the vector is being fitted. */
function followProgress() {
  const bar = at("fit-progress");
  bar.hidden = false;
  bar.removeAttribute("value");
  say("soft", "finding the SAEs…");
  const timer = setInterval(async () => {
    const now = await (await ask("/v1/fitting")).json().catch(() => ({}));
    if (bar.hidden || !now.n_texts) return;
    if (now.n_read) {
      bar.max = now.n_texts;
      bar.value = now.n_read;
    }
    say("soft", !now.n_read ? `reading ${now.n_texts} texts…` :
      now.n_read < now.n_texts ? `${now.n_read} of ${now.n_texts} texts read` : "making the vector…");
  }, 250);
  return () => { clearInterval(timer); bar.hidden = true; };
}

async function fitVector() {
  const name = at("fit-name").value.trim();
  const positive = textsOf("positive"), negative = textsOf("negative");
  if (!name) { say("error", "Give the vector a name."); at("fit-name").focus(); return; }
  if (!positive.length || !negative.length) { say("error", "Both sides need texts: paste some, choose files, or fill in the example."); return; }
  at("fit-go").disabled = true;
  const end = followProgress();
  try {
    const found = await (await ask("/v1/vectors", { name, positive, negative, method: at("fit-method").value })).json();
    end();
    const auroc = found.auroc === null ? "" : `, AUROC ${found.auroc.toFixed(2)} on texts held out`;
    say("soft", `${found.id}: fitted in ${found.seconds.toFixed(1)} s${auroc}. It is turned up now. `,
      element("a", { href: `/v1/vectors/${encodeURIComponent(found.id)}/file`, textContent: "Save the file" }),
      ...found.warnings.map((text) => element("p", { textContent: text })));
    touched = found.id;
    await loadVectors({ [found.id]: found.suggested_alpha });
    generateInView();
  } catch (error) {
    end();
    say("error", error.message);
  } finally {
    at("fit-go").disabled = false;
  }
}

at("fit-go").addEventListener("click", fitVector);
at("fit-example").addEventListener("click", () => {
  const example = offered.fit_example;
  at("fit-name").value = example.name;
  for (const side of ["positive", "negative"]) {
    delete files[side];
    showSide(side);
    at(`fit-${side}`).value = example[side].join("\n");
  }
  at("fit-go").focus();
});
for (const input of document.querySelectorAll("#fit input[type=file]")) {
  input.addEventListener("change", () => { if (input.files.length) takeFile(input.dataset.side, input.files[0]); input.value = ""; });
}
for (const side of ["positive", "negative"]) {
  at(`fit-${side}`).addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    takeFile(side, event.dataTransfer.files[0]);
  });
}
