// What scrolls can be reached by the keyboard, and the buttons of each block of code have a name of their own: as axe asks.
// The theme makes both as a page is read, so they are looked for again.
function name() {
  for (const one of document.querySelectorAll(".md-typeset pre > code, .md-typeset__scrollwrap")) one.tabIndex = 0
  document.querySelectorAll(".md-code__nav").forEach((one, place) => (one.ariaLabel = `Buttons of code ${place + 1}`))
}
name()
new MutationObserver(name).observe(document.body, { childList: true, subtree: true })
