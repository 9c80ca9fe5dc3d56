// The keys of the page on which people decide. Every key is a button too, and without this file those still work.
"use strict";
const form = document.getElementById("deciding");
const press = (action) => form.querySelector(`button[value="${action}"]`)?.click();
const isField = (element) => element instanceof HTMLInputElement || element instanceof HTMLTextAreaElement;

function enter(id) {
  const field = document.getElementById(id);
  if (field) { field.focus(); field.select(); }
}

document.addEventListener("keydown", (event) => {
  if (!form || event.isComposing) return;
  const field = isField(event.target) ? event.target : null;
  if (field) {
    if (event.key === "Escape") field.blur();
    else if (field.id === "score" && event.key === "Enter") { event.preventDefault(); press("score"); }
    else if (field.id === "edited" && event.key === "Enter" && event.ctrlKey) { event.preventDefault(); press("edit"); }
    return;
  }
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  const does = {
    a: () => press("accept"), r: () => press("reject"), e: () => enter("edited"), s: () => enter("score"),
    n: () => document.getElementById("next")?.click(),
  }[event.key];
  if (does) { event.preventDefault(); does(); }
});
