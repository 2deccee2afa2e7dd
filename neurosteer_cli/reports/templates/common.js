"use strict";

/** An element with properties and children; `dataset`, `style` and what begins with "aria-" are attributes. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "style" || name === "role") made.setAttribute(name, value);
    else if (name === "dataset") Object.assign(made.dataset, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Text with its line breaks and tabs to be seen, on one line. */
const visible = (text) => text.replace(/\r?\n/g, "⏎").replace(/\t/g, "⇥");

const fixed = (number, digits = 2) => number.toFixed(digits).replace("-", "−");

/** A context of a latent: aligned where the token it fires at begins, which is the deeper coloured the more it fires. */
function contextLine([before, token, after, activation], strongest, { tag = "li", value = true } = {}) {
  const strength = strongest > 0 ? activation / strongest : 0;
  const word = token.trim() === "" ? token.replace(/ /g, "␣") : token.replace(/^ +/, "");
  const lead = token.slice(0, token.length - word.length); // its space stands before the mark
  return element(tag, { className: "context", style: `--strength: ${strength.toFixed(3)}` },
    element("span", { className: "before" }, element("span", { textContent: visible(before + lead) })),
    element("span", { className: "after" }, element("span", { className: "token", textContent: visible(word) }),
      element("span", { textContent: visible(after) })),
    ...(value ? [element("span", { className: "value", textContent: fixed(activation) })] : []));
}
