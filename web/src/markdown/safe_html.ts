// The only way by which HTML made of a reply gets into the page: sanitised, against a short list of what is allowed.
//
// A reply is hostile text. The list has no element that loads, runs, styles or sends anything, and no id or name, by
// which a reply could stand in for an element of the page.

import DOMPurify, { type Config } from "dompurify";

const MATHS = [
  ..."math semantics mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover".split(
    " ",
  ),
  ..."mtable mtr mtd mpadded mphantom menclose merror mprescripts mmultiscripts mstyle".split(" "),
];
const MATHS_ATTRIBUTES = (
  "display displaystyle scriptlevel mathvariant stretchy fence separator form lspace rspace movablelimits accent " +
  "accentunder largeop symmetric linethickness columnalign columnspacing columnlines rowspacing rowlines notation " +
  "width height depth voffset minsize maxsize mathcolor"
).split(" ");

const PLAIN_ATTRIBUTES = [..."alt title class align start type checked disabled open".split(" "), ...MATHS_ATTRIBUTES];

const CONFIG: Config = {
  ALLOWED_TAGS: [
    ..."p br hr h1 h2 h3 h4 h5 h6 em strong b i u s del mark sub sup kbd code pre blockquote ul ol li".split(" "),
    ..."table thead tbody tr th td a img span details summary input div".split(" "),
    ...MATHS,
  ],
  ALLOWED_ATTR: ["href", "src", ...PLAIN_ATTRIBUTES],
  // These are no addresses, which the expression below is about.
  ADD_URI_SAFE_ATTR: PLAIN_ATTRIBUTES,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  KEEP_CONTENT: true,
};

/** Classes of the highlighter and of the maths; any other would borrow the page's own looks. */
const CLASS = /^(?:hljs(?:-[\w-]+)?_*|language-[\w+#-]+|tml-[\w-]+|[\w]+_)$/;
/** Pictures that a reply may bring along. Others would be fetched, which tells their server of the reader. */
export const OWN_PICTURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[\w+/=]+$/;

const purifier = DOMPurify(window);

purifier.addHook("uponSanitizeAttribute", (_element, attribute) => {
  if (attribute.attrName === "class") {
    attribute.attrValue = attribute.attrValue
      .split(/\s+/)
      .filter((name) => CLASS.test(name))
      .join(" ");
    attribute.keepAttr = attribute.attrValue !== "";
  }
});

purifier.addHook("afterSanitizeAttributes", (element) => {
  if (element.tagName === "A") {
    element.setAttribute("target", "_blank");
    element.setAttribute("rel", "noopener noreferrer nofollow");
  } else if (element.tagName === "IMG") {
    if (!OWN_PICTURE.test(element.getAttribute("src") ?? "")) element.remove();
  } else if (element.tagName === "INPUT") {
    // The boxes of task lists, and nothing that takes text.
    if (element.getAttribute("type") === "checkbox") element.setAttribute("disabled", "");
    else element.remove();
  }
});

/** HTML that is harmless in this page. Where the browser knows trusted types, it is one. */
export function safeHtml(html: string): string {
  return purifier.sanitize(html, { ...CONFIG, RETURN_TRUSTED_TYPE: true }) as unknown as string;
}
