// After every page, also one that instant navigation brings. Without KaTeX (offline) formulas stay as TeX.
document$.subscribe(() => {
  window.renderMathInElement?.(document.body, {
    delimiters: [
      { left: "\\[", right: "\\]", display: true },
      { left: "\\(", right: "\\)", display: false },
    ],
  })
})
