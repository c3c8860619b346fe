// Maths in Markdown: `$$…$$` and `\[…\]` as blocks, `$…$` and `\(…\)` in a line.

import type { MarkedExtension, TokenizerExtension, Tokens } from "marked";

export interface MathsToken extends Tokens.Generic {
  text: string;
  block: boolean;
}

const BLOCK = /^(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n|$)/;
const DISPLAY_IN_LINE = /^(?:\$\$([^$\n]+?)\$\$|\\\[([^\n]+?)\\\])/;
// Prices such as "$5 and $6" aren't maths: no space inside the dollars, no digit behind them.
const IN_LINE = /^(?:\$(?!\s)((?:\\.|[^$\\\n])+?)(?<!\s)\$(?![\d$])|\\\(([^\n]+?)\\\))/;

/** Where in the text the syntax may begin. */
function start(begin: RegExp): (source: string) => number | undefined {
  return (source) => {
    const found = source.search(begin);
    return found < 0 ? undefined : found;
  };
}

function token(match: RegExpExecArray, name: string, block: boolean): MathsToken {
  return { type: name, raw: match[0], text: (match[1] ?? match[2] ?? "").trim(), block };
}

const block: TokenizerExtension = {
  name: "mathsBlock",
  level: "block",
  // A paragraph ends there, so it has to be the begin of a line.
  start: start(/(?<=\n)(?:\$\$|\\\[)/),
  tokenizer(source) {
    const match = BLOCK.exec(source);
    return match === null ? undefined : token(match, "mathsBlock", true);
  },
};

const line: TokenizerExtension = {
  name: "mathsLine",
  level: "inline",
  start: start(/\$|\\\(|\\\[/),
  tokenizer(source) {
    const display = DISPLAY_IN_LINE.exec(source);
    if (display !== null) return token(display, "mathsLine", true);
    const match = IN_LINE.exec(source);
    return match === null ? undefined : token(match, "mathsLine", false);
  },
};

/** The syntax, with `render` to make HTML of a formula. */
export function mathsSyntax(render: (source: string, block: boolean) => string): MarkedExtension {
  const renderer = (found: Tokens.Generic) => render((found as MathsToken).text, (found as MathsToken).block);
  return {
    extensions: [
      { ...block, renderer },
      { ...line, renderer },
    ],
  };
}
