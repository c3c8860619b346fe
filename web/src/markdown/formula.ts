// Formulas in TeX as MathML, which the browser sets by itself. Loaded with the first formula.

import temml from "temml";

// The page lets no inline styles in, and the browser reports each one. Formulas are right without them.
const STYLE = / style="[^"]*"/g;

/** MathML of a formula. A formula with an error becomes text that shows the error's place. */
export function mathml(source: string, block: boolean): string {
  // The limits keep a hostile formula from taking the browser's time.
  const options = { displayMode: block, throwOnError: false, trust: false, maxExpand: 200 };
  return temml.renderToString(source, options).replace(STYLE, "");
}
