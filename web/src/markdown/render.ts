// Markdown to HTML, block by block. What it gives isn't safe yet: `safe_html` makes it so.

import { Marked, type Token, type Tokens } from "marked";
import { fetchHelper, helpers } from "./helpers";
import { mathsSyntax } from "./maths_syntax";
import { OWN_PICTURE } from "./safe_html";

/** Texts beyond these lengths are shown as they are: colours and layout would take the browser's time. */
const MAX_HIGHLIGHTED = 30_000;
const MAX_FORMULA = 4_000;
/** Characters in a row that open something, and the depth of quotes and lists: parsers nest as deep as the text says. */
const TOO_DEEP = /(?:[[({<*_~`!>]\s?){100}|(?:<\/?\w+>\s*){100}|^[ \t]*(?:(?:>|[-+*]|\d+[.)])[ \t]*){30}/m;
/** HTML that models write in Markdown, without attributes. All other HTML is shown as text. */
const PLAIN_TAG = /^<\/?(?:b|br|details|em|i|kbd|mark|s|strong|sub|summary|sup|u)\s*\/?>$/i;

const ESCAPES: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ESCAPES[character] ?? character);
}

function formula(source: string, block: boolean): string {
  const { mathml } = helpers.value;
  if (mathml === null || source.length > MAX_FORMULA) {
    fetchHelper("mathml");
    return block ? `<pre>${escaped(source)}</pre>` : `<code>${escaped(source)}</code>`;
  }
  return mathml(source, block);
}

function code({ text, lang }: Tokens.Code): string {
  const language = /^[\w+#-]+/.exec(lang ?? "")?.[0]?.toLowerCase() ?? "";
  const { highlight } = helpers.value;
  if (highlight === null) fetchHelper("highlight");
  const short = text.length <= MAX_HIGHLIGHTED;
  const coloured = language !== "" && short ? (highlight?.(text, language) ?? null) : null;
  const name = language === "" ? "" : ` class="language-${escaped(language)}"`;
  return `<pre><code${name}>${coloured ?? escaped(text)}</code></pre>`;
}

function image({ href, text }: Tokens.Image): string {
  if (OWN_PICTURE.test(href)) return `<img src="${href}" alt="${escaped(text)}">`;
  const shown = escaped(text || href.slice(0, 200));
  return /^https?:/i.test(href) ? `<a href="${escaped(href)}">${shown}</a>` : shown;
}

function html({ text }: Tokens.HTML | Tokens.Tag): string {
  return text.replace(/<[^<>]*>|[&<>"']/g, (found) => (PLAIN_TAG.test(found) ? found : escaped(found)));
}

const marked = new Marked({ gfm: true, breaks: false });
marked.use(mathsSyntax(formula), { renderer: { code, image, html } });

/** The text's blocks: paragraphs, lists, tables, code. A block keeps its place while the text grows behind it. */
export function blocks(text: string): Token[] {
  if (TOO_DEEP.test(text)) return [plain(text)];
  try {
    return marked.lexer(text).filter((token) => token.type !== "space" && token.type !== "def");
  } catch {
    return [plain(text)];
  }
}

/** A block's HTML, not safe yet. */
export function blockHtml(token: Token): string {
  if (token.type === "plain") return `<p class="tml-plain">${escaped(token.raw)}</p>`;
  try {
    return marked.parser([token]);
  } catch {
    return `<p class="tml-plain">${escaped(token.raw)}</p>`;
  }
}

/** A text that isn't parsed. */
function plain(text: string): Token {
  return { type: "plain", raw: text, text };
}
